package e2e

import (
	"os/exec"
	"strings"
	"testing"
)

// TestGcloud: the command line of Google Cloud, for which there was no login.
func TestGcloud(t *testing.T) {
	gcloud, err := exec.LookPath("gcloud")
	if err != nil {
		t.Skip("gcloud is not here, and neither Debian nor npm has it: https://cloud.google.com/sdk/docs/install")
	}
	s := serve(t)
	run := func(args ...string) string {
		t.Helper()
		return strings.TrimSpace(s.client(t, []string{"CLOUDSDK_CORE_DISABLE_PROMPTS=1"}, gcloud, args...))
	}
	account := document.Instance.ServiceAccounts["default"].Email
	if got := run("auth", "list", "--format=value(account,status)"); got != account+"\t*" && got != account+"\tACTIVE" {
		t.Errorf("gcloud auth list = %q, want %s to be active", got, account)
	}
	if got := run("config", "get", "project"); got != document.Project.ProjectID {
		t.Errorf("gcloud config get project = %q, want %s", got, document.Project.ProjectID)
	}
	checkTokenInfo(t, s, run("auth", "print-access-token"))
	if got := run("auth", "print-identity-token", "--audiences="+"https://service.example.com"); strings.Count(got, ".") != 2 {
		t.Errorf("gcloud auth print-identity-token = %q, want a JWT", got)
	}
	t.Log(strings.Split(run("version"), "\n")[0])
}
