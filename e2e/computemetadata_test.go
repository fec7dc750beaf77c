//lint:file-ignore SA1019 programs call the functions without a context too; those with one are below them

package e2e

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/http/httptrace"
	"reflect"
	"slices"
	"strings"
	"testing"

	"cloud.google.com/go/compute/metadata"
)

func TestComputeMetadata(t *testing.T) {
	s := serve(t)
	s.setenv(t)

	t.Run("OnGCE", func(t *testing.T) {
		if !metadata.OnGCE() || !metadata.OnGCEWithContext(t.Context()) {
			t.Error("OnGCE() = false with GCE_METADATA_HOST set")
		}
	})

	t.Run("helpers", func(t *testing.T) {
		d := document
		nic := d.Instance.NetworkInterfaces[0]
		account := d.Instance.ServiceAccounts["default"]
		_, zone, _ := strings.Cut(d.Instance.Zone, "/zones/")
		for name, c := range map[string]struct {
			get  func() (any, error)
			want any
		}{
			"ProjectID":              {erase(metadata.ProjectID), d.Project.ProjectID},
			"NumericProjectID":       {erase(metadata.NumericProjectID), d.Project.NumericProjectID.String()},
			"InternalIP":             {erase(metadata.InternalIP), nic.IP},
			"ExternalIP":             {erase(metadata.ExternalIP), nic.AccessConfigs[0].ExternalIP},
			"Hostname":               {erase(metadata.Hostname), d.Instance.Hostname},
			"InstanceID":             {erase(metadata.InstanceID), d.Instance.ID.String()},
			"InstanceName":           {erase(metadata.InstanceName), d.Instance.Name},
			"Zone":                   {erase(metadata.Zone), zone},
			"InstanceTags":           {erase(metadata.InstanceTags), d.Instance.Tags},
			"InstanceAttributes":     {erase(metadata.InstanceAttributes), keys(d.Instance.Attributes)},
			"ProjectAttributes":      {erase(metadata.ProjectAttributes), keys(d.Project.Attributes)},
			"InstanceAttributeValue": {of(metadata.InstanceAttributeValue, "startup-script"), d.Instance.Attributes["startup-script"]},
			"ProjectAttributeValue":  {of(metadata.ProjectAttributeValue, "demo-project-key"), d.Project.Attributes["demo-project-key"]},
			"Email":                  {of(metadata.Email, ""), account.Email},
			"Email of an account":    {of(metadata.Email, account.Email), account.Email},
			"Scopes":                 {of(metadata.Scopes, ""), account.Scopes},
			"Get":                    {of(metadata.Get, "instance/machine-type"), d.Instance.MachineType},
		} {
			got, err := c.get()
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%s() = %q, %v; want %q", name, got, err, c.want)
			}
		}
	})

	t.Run("absent", func(t *testing.T) {
		for name, get := range map[string]func() (any, error){
			"Get":                    of(metadata.Get, "instance/no-such-key"),
			"InstanceAttributeValue": of(metadata.InstanceAttributeValue, "no-such-key"),
			"ProjectAttributeValue":  of(metadata.ProjectAttributeValue, "no-such-key"),
			"Email":                  of(metadata.Email, "nobody@example.com"),
		} {
			got, err := get()
			var absent metadata.NotDefinedError
			if !errors.As(err, &absent) {
				t.Errorf("%s of an absent key = %q, %v; want a NotDefinedError", name, got, err)
			}
		}
	})

	t.Run("refused", func(t *testing.T) {
		_, err := metadata.Get("instance/service-accounts/default/identity")
		var refused *metadata.Error
		if !errors.As(err, &refused) || refused.Code != http.StatusBadRequest || !strings.Contains(refused.Message, "non-empty audience parameter required") {
			t.Errorf("identity without audience: %v; want an Error with code 400 that names the audience", err)
		}
	})

	t.Run("Subscribe", func(t *testing.T) {
		const path = "instance/attributes/color"
		s.cli(t, "set", path, "red")
		waits := &announcer{waiting: make(chan struct{}, 1)}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		type event struct {
			value string
			ok    bool
		}
		events, done := make(chan event), make(chan error, 1)
		go func() {
			done <- metadata.NewClient(&http.Client{Transport: waits}).SubscribeWithContext(ctx, path,
				func(ctx context.Context, value string, ok bool) error {
					select {
					case events <- event{value, ok}:
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				})
		}()
		next := func(want event) {
			t.Helper()
			select {
			case got := <-events:
				if got != want {
					t.Fatalf("Subscribe calls back with %+v, want %+v", got, want)
				}
			case err := <-done:
				t.Fatalf("Subscribe ends with %v before %+v", err, want)
			}
		}
		waiting := func() {
			t.Helper()
			select {
			case <-waits.waiting:
			case <-ctx.Done():
				t.Fatal("Subscribe does not wait for a change")
			}
		}
		next(event{"red", true})
		waiting()
		s.cli(t, "set", path, "green")
		next(event{"green", true})
		waiting()
		s.cli(t, "delete", path)
		next(event{"", false})
		if err := <-done; err != nil {
			t.Errorf("Subscribe to a deleted value ends with %v, want nil", err)
		}
	})

	t.Run("Subscribe to all", func(t *testing.T) {
		// The package's own client, with which there is no way to see the request.
		stop := errors.New("enough")
		var seen []bool
		err := metadata.Subscribe("instance/attributes/?recursive=true", func(v string, ok bool) error {
			has := strings.Contains(v, `"shape":"round"`)
			seen = append(seen, has)
			if has {
				return stop
			}
			s.cli(t, "set", "instance/attributes/shape", "round")
			return nil
		})
		if err != stop || !slices.Equal(seen, []bool{false, true}) {
			t.Errorf("Subscribe to the attributes: %v after values with the new one %v; want [false true]", err, seen)
		}
	})
}

// An announcer tells when a request that waits for a change was written.
type announcer struct{ waiting chan struct{} }

func (a *announcer) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Query().Get("wait_for_change") == "true" {
		r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
			WroteRequest: func(httptrace.WroteRequestInfo) { a.waiting <- struct{}{} },
		}))
	}
	return http.DefaultTransport.RoundTrip(r)
}

func erase[T any](f func() (T, error)) func() (any, error) {
	return func() (any, error) { return f() }
}

func of[T any](f func(string) (T, error), arg string) func() (any, error) {
	return func() (any, error) { return f(arg) }
}

func keys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
