package e2e

import (
	"strings"
	"testing"

	"go.opentelemetry.io/contrib/detectors/gcp"
)

func TestOpenTelemetry(t *testing.T) {
	serve(t).setenv(t)
	logModule(t, "go.opentelemetry.io/contrib/detectors/gcp")
	resource, err := gcp.NewDetector().Detect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, kv := range resource.Attributes() {
		got[string(kv.Key)] = kv.Value.String()
	}
	_, zone, _ := strings.Cut(document.Instance.Zone, "/zones/")
	for key, want := range map[string]string{
		"cloud.provider":          "gcp",
		"cloud.platform":          "gcp_compute_engine",
		"cloud.account.id":        document.Project.ProjectID,
		"cloud.availability_zone": zone,
		"cloud.region":            zone[:strings.LastIndex(zone, "-")],
		"host.id":                 document.Instance.ID.String(),
		"host.name":               document.Instance.Name,
		"host.type":               document.Instance.MachineType,
	} {
		if got[key] != want {
			t.Errorf("resource attribute %s = %q, want %q", key, got[key], want)
		}
	}
}
