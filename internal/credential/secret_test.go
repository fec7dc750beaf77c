package credential

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSecret(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("GCEMDS_TEST_PIN", "1234\r\n")
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	write("unit", "for the unit", 0o440)

	for reference, want := range map[Secret]string{
		"": "",
		Secret("file:" + write("pin", "12 34\n\n", 0o600)): "12 34\n",
		"env:GCEMDS_TEST_PIN":                              "1234",
		"credential:unit":                                  "for the unit",
	} {
		if got, err := reference.read(); err != nil || string(got) != want || reference.check() != nil {
			t.Errorf("%s = %q, %v, want %q", reference, got, err, want)
		}
	}

	for reference, want := range map[Secret][]string{ // a change of these opens the source again
		"file:pin": {"pin"}, "credential:unit": {filepath.Join(dir, "unit")}, "env:PIN": nil, "fd:3": nil, "": nil,
	} {
		if got := reference.files(); !slices.Equal(got, want) {
			t.Errorf("the files of %q = %q, want %q", reference, got, want)
		}
	}

	for reference, says := range map[Secret]string{
		"geheim":               "by reference",
		"geheim:1":             "by reference",
		"file:":                "by reference",
		"fd:1":                 "3 or above",
		"fd:x":                 "3 or above",
		"credential:../shadow": "without a path",
	} {
		if err := reference.check(); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("check(%s) = %v, want %q and not what it holds", reference, err, says)
		}
	}
	for reference, says := range map[Secret]string{
		Secret("file:" + write("open", "geheim", 0o644)): "chmod 600",
		Secret("file:" + write("empty", "\n", 0o600)):    "is empty",
		Secret("file:" + dir + "/none"):                  "no such file",
		"env:GCEMDS_TEST_NONE":                           "no such variable",
		"fd:999":                                         "not open",
	} {
		if _, err := reference.read(); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("read(%s) = %v, want %q and not what it holds", reference, err, says)
		}
	}
}
