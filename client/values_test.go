package client

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gcemds/gcemds"
	"github.com/gcemds/gcemds/mdstest"
)

func TestValues(t *testing.T) {
	mds := mdstest.NewServer(t)
	mds.Set("project/attributes", map[string]string{"a": "project", "b": "project"})
	mds.Set("instance/attributes", map[string]string{"a": "instance", "c": " 1\n"})
	var c Client // GCE_METADATA_HOST is set
	ctx := t.Context()
	for name, q := range map[string]struct {
		ask  func() (any, error)
		want any
	}{
		"ProjectID":        {func() (any, error) { return c.ProjectID(ctx) }, "demo-project"},
		"NumericProjectID": {func() (any, error) { return c.NumericProjectID(ctx) }, "123456789012"},
		"InstanceID":       {func() (any, error) { return c.InstanceID(ctx) }, "5193847261058203746"},
		"InstanceName":     {func() (any, error) { return c.InstanceName(ctx) }, "demo-instance"},
		"Hostname":         {func() (any, error) { return c.Hostname(ctx) }, "demo-instance.us-central1-a.c.demo-project.internal"},
		"Zone":             {func() (any, error) { return c.Zone(ctx) }, "us-central1-a"},
		"Region":           {func() (any, error) { return c.Region(ctx) }, "us-central1"},
		"Attribute a":      {func() (any, error) { return c.Attribute(ctx, "a") }, "instance"},
		"Attribute b":      {func() (any, error) { return c.Attribute(ctx, "b") }, "project"},
		"Attribute c":      {func() (any, error) { return c.Attribute(ctx, "c") }, " 1\n"},
		"Attributes":       {func() (any, error) { return c.Attributes(ctx) }, map[string]string{"a": "instance", "b": "project", "c": " 1\n"}},
		"Email":            {func() (any, error) { return c.Email(ctx, "") }, "123456789012-compute@developer.gserviceaccount.com"},
		"Scopes": {func() (any, error) { return c.Scopes(ctx, "123456789012-compute@developer.gserviceaccount.com") },
			[]string{cloudPlatform}},
		"MaintenanceEvent":    {func() (any, error) { return c.MaintenanceEvent(ctx) }, "NONE"},
		"Preempted":           {func() (any, error) { return c.Preempted(ctx) }, false},
		"UpcomingMaintenance": {func() (any, error) { return c.UpcomingMaintenance(ctx) }, (*Maintenance)(nil)},
	} {
		if got, err := q.ask(); err != nil || !reflect.DeepEqual(got, q.want) {
			t.Errorf("%s = %#v, %v; want %#v", name, got, err, q.want)
		}
	}
	if _, err := c.Attribute(ctx, "d"); !errors.Is(err, NotFound) {
		t.Errorf("Attribute that nobody has = %v, want kind NotFound", err)
	}
	if token, err := new(Tokens).Token(ctx); err != nil || token.Value == "" {
		t.Errorf("Token of zero Tokens = %v, %v", token, err)
	}
	mds.Set("instance/preempted", "TRUE")
	if got, err := c.Preempted(ctx); !got || err != nil {
		t.Errorf("Preempted = %v, %v", got, err)
	}
}

func TestTree(t *testing.T) {
	mds := mdstest.NewServer(t, mdstest.WithoutEnv(), mdstest.Options(gcemds.Options{Document: []byte(
		`{"instance":{"id":18446744073709551615,"name":"vm","tags":["a"],"attributes":{"x":"1"}},"project":{"numericProjectId":9007199254740993}}`)}))
	c := Client{Host: mds.Addr()}

	var all map[string]any
	if err := c.Tree(t.Context(), "", &all); err != nil {
		t.Fatal(err)
	}
	if id := all["instance"].(map[string]any)["id"]; id != json.Number("18446744073709551615") {
		t.Errorf("the ID of the machine is %T %v", id, id)
	}
	var machine struct {
		ID         uint64
		Tags       []string
		Attributes map[string]string
	}
	if err := c.Tree(t.Context(), "instance", &machine); err != nil || machine.ID != 18446744073709551615 || machine.Tags[0] != "a" || machine.Attributes["x"] != "1" {
		t.Errorf("Tree = %+v, %v", machine, err)
	}
	var name string
	if err := c.Tree(t.Context(), "instance/name", &name); err != nil || name != "vm" {
		t.Errorf("Tree of a leaf = %q, %v", name, err)
	}
	var n int64
	if err := c.Tree(t.Context(), "project/numeric-project-id", &n); err != nil || n != 9007199254740993 {
		t.Errorf("Tree of a number = %d, %v", n, err)
	}
	if err := c.Tree(t.Context(), "instance/name", &n); !errors.Is(err, Malformed) {
		t.Errorf("Tree of a string into a number = %v, want kind Malformed", err)
	}
	if err := c.Tree(t.Context(), "instance/nothing", &n); !errors.Is(err, NotFound) {
		t.Errorf("Tree of nothing = %v, want kind NotFound", err)
	}
}

func TestTreeMalformed(t *testing.T) {
	for _, body := range []string{"", "{", "{}{}", `{"a":1} x`} {
		synctest.Test(t, func(t *testing.T) {
			_, c := newWire(t, value(body))
			var v any
			err := c.Tree(t.Context(), "instance/", &v)
			if !errors.Is(err, Malformed) || asError(t, err).URL == "" {
				t.Errorf("Tree of %q = %v, want kind Malformed and the URL", body, err)
			}
		})
	}
}

func TestUpcomingMaintenance(t *testing.T) {
	planned := &Maintenance{
		Type: "SCHEDULED", Status: "PENDING", CanReschedule: true,
		WindowStart:       time.Date(2026, 3, 1, 2, 0, 0, 0, time.UTC),
		WindowEnd:         time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC),
		LatestWindowStart: time.Date(2026, 3, 20, 2, 0, 0, 0, time.UTC),
	}
	for body, want := range map[string]*Maintenance{
		`{"can_reschedule":"TRUE","latest_window_start_time":"2026-03-20T02:00:00Z","maintenance_status":"PENDING","type":"SCHEDULED","window_start_time":"2026-03-01T02:00:00Z","window_end_time":"2026-03-01T06:00:00Z","maintenance_reasons":["FAILURE_DISK"]}`: planned,
		`{"canReschedule":true,"latestWindowStartTime":"2026-03-20T03:00:00+01:00","maintenanceStatus":"PENDING","type":"SCHEDULED","windowStartTime":"2026-03-01T02:00:00Z","windowEndTime":"2026-03-01T06:00:00Z"}`:                                              planned,
		`{"type":"UNSCHEDULED"}`: {Type: "UNSCHEDULED"},
		`NONE`:                   nil, `"NONE"`: nil, `{ }`: nil, ``: nil,
	} {
		got, err := parseMaintenance(body)
		if got != nil {
			got.LatestWindowStart = got.LatestWindowStart.UTC()
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s means %+v, %v; want %+v", body, got, err, want)
		}
	}
	for _, body := range []string{`x`, `[]`, `{"window_start_time":"tomorrow"}`} {
		if got, err := parseMaintenance(body); err == nil {
			t.Errorf("%s means %+v, want an error", body, got)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		w, c := newWire(t, status(503, `{ "error": "no notifications have been received yet, try again later" }`))
		if m, err := c.UpcomingMaintenance(t.Context()); m != nil || err != nil || w.asked() != 1 {
			t.Errorf("UpcomingMaintenance shortly after boot = %+v, %v after %d requests; want nothing at once", m, err, w.asked())
		}
	})
	synctest.Test(t, func(t *testing.T) {
		_, c := newWire(t, status(404, ""))
		if m, err := c.UpcomingMaintenance(t.Context()); m != nil || err != nil {
			t.Errorf("UpcomingMaintenance where it does not exist = %+v, %v; want nothing", m, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, c := newWire(t, status(503, "starting"))
		if m, err := c.UpcomingMaintenance(ctx); err == nil {
			t.Errorf("UpcomingMaintenance from a server that starts = %+v", m)
		}
	})
}

func FuzzParseMaintenance(f *testing.F) {
	f.Add(`NONE`)
	f.Add(`{"can_reschedule":"TRUE","window_start_time":"2026-03-01T02:00:00Z","type":"SCHEDULED"}`)
	f.Add(`{"canReschedule":false,"type":7,"window_end_time":[]}`)
	f.Fuzz(func(t *testing.T, body string) {
		if m, err := parseMaintenance(body); m != nil && err != nil {
			t.Errorf("%q means %+v, and is an error: %v", body, m, err)
		}
	})
}
