package tpm

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The files in testdata were written by tpm2_encodeobject 5.4, for a key with
// a password, one without, and an EC key. They work in no TPM that still is.
func TestParseKeyFile(t *testing.T) {
	names, _ := filepath.Glob("testdata/*.pem")
	if len(names) != 3 {
		t.Fatalf("%d files in testdata, want 3", len(names))
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := ParseKeyFile(text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if f.parent != 0x40000001 {
			t.Errorf("%s: parent 0x%x, want the owner hierarchy", name, f.parent)
		}
		// What we write of it reads the same; emptyAuth says nothing.
		for _, f.withPassword = range []bool{false, true} {
			text, err := f.PEM()
			if err != nil {
				t.Fatal(err)
			}
			again, err := ParseKeyFile(text)
			if err != nil || !bytes.Equal(again.name.Buffer, f.name.Buffer) || !bytes.Equal(again.private.Buffer, f.private.Buffer) || again.parent != f.parent {
				t.Errorf("%s: written and read it is another key (%v)", name, err)
			}
		}
		block, _ := pem.Decode(text)
		for size := range block.Bytes {
			if _, err := ParseKeyFile(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes[:size]})); err == nil {
				t.Errorf("%s: its first %d bytes are a key, too", name, size)
			}
		}
	}
}

func TestParseKeyFileFaults(t *testing.T) {
	block := func(kind string, der ...byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	for text, want := range map[string]string{
		"":                              "no PEM block",
		"{}":                            "no PEM block",
		block("PRIVATE KEY"):            `it is a "PRIVATE KEY"`,
		block("TSS2 PRIVATE KEY"):       "damaged",
		block("TSS2 PRIVATE KEY", 0x30): "damaged",
		block("TSS2 PRIVATE KEY", 0x30, 17, 6, 6, 0x67, 0x81, 5, 10, 1, 4, 2, 1, 0, 4, 1, 0, 4, 1, 0): "import it first",
		block("TSS2 PRIVATE KEY", 0x30, 17, 6, 6, 0x67, 0x81, 5, 10, 1, 5, 2, 1, 0, 4, 1, 0, 4, 1, 0): "sealed data",
		block("TSS2 PRIVATE KEY", 0x30, 17, 6, 6, 0x67, 0x81, 5, 10, 1, 6, 2, 1, 0, 4, 1, 0, 4, 1, 0): "unknown type",
		block("TSS2 PRIVATE KEY", 0x30, 17, 6, 6, 0x67, 0x81, 5, 10, 1, 3, 2, 1, 0, 4, 1, 0, 4, 1, 0): "public part is damaged",
	} {
		if _, err := ParseKeyFile([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseKeyFile(%q) = %v, want %q", text, err, want)
		}
	}
}

func TestParse(t *testing.T) {
	for s, want := range map[string]bool{"": true, "h2": true, "rsa-srk": true, "ecc-srk": true, "ek-rsa": true, "0x81000001": true,
		"H2": false, "srk": false, "0x80000001": false, "0x8100001": false, "81000001": false, "0x81000001 ": false} {
		if _, err := ParseParent(s); (err == nil) != want {
			t.Errorf("ParseParent(%q) = %v, want good: %v", s, err, want)
		}
	}
	for s, want := range map[string]uint32{"0x81010002": 0x81010002, "0X8101000A": 0x8101000a, "0x40000001": 0, "-0x8101000": 0, "0x8101+002": 0, "": 0} {
		if got, err := ParseHandle(s); got != want || (err == nil) != (want != 0) {
			t.Errorf("ParseHandle(%q) = 0x%x, %v, want 0x%x", s, got, err, want)
		}
	}
	for s, want := range map[string]string{"sha256:7,0,7": "[0 7]", "sha1:23": "[23]", "sha256:": "", "sha256": "", "0,7": "", "md5:1": "", "sha256:24": "", "sha256:-1": "", "sha256:1,": "", "sha256:0+sha1:0": ""} {
		if got, err := ParsePCRs(s); (err == nil) != (want != "") || err == nil && fmt.Sprint(got.List) != want {
			t.Errorf("ParsePCRs(%q) = %v, %v, want %s", s, got, err, want)
		}
	}
}

func FuzzParseKeyFile(f *testing.F) {
	names, _ := filepath.Glob("testdata/*.pem")
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		block, _ := pem.Decode(text)
		f.Add(text)
		f.Add(block.Bytes)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if block, _ := pem.Decode(text); block == nil { // what is in the block is the more interesting part
			text = pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: text})
		}
		k, err := ParseKeyFile(text)
		if err != nil {
			return
		}
		again, err := k.PEM()
		if err != nil {
			t.Fatal(err)
		}
		second, err := ParseKeyFile(again)
		if err != nil || !bytes.Equal(second.name.Buffer, k.name.Buffer) || !bytes.Equal(second.private.Buffer, k.private.Buffer) {
			t.Errorf("written and read it is another key: %v", err)
		}
	})
}
