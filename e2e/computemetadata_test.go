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
	logModule(t, "cloud.google.com/go/compute/metadata")

	t.Run("OnGCE", func(t *testing.T) {
		if !metadata.OnGCE() || !metadata.OnGCEWithContext(t.Context()) || !metadata.NewClient(nil).OnGCEWithContext(t.Context()) {
			t.Error("OnGCE() = false with GCE_METADATA_HOST set")
		}
	})

	t.Run("helpers", func(t *testing.T) {
		d := document
		nic := d.Instance.NetworkInterfaces[0]
		account := d.Instance.ServiceAccounts["default"]
		_, zone, _ := strings.Cut(d.Instance.Zone, "/zones/")
		table := []struct {
			name            string
			get, getContext any // the functions of the package
			arg             []string
			want            any
		}{
			{"ProjectID", metadata.ProjectID, metadata.ProjectIDWithContext, nil, d.Project.ProjectID},
			{"NumericProjectID", metadata.NumericProjectID, metadata.NumericProjectIDWithContext, nil, d.Project.NumericProjectID.String()},
			{"InternalIP", metadata.InternalIP, metadata.InternalIPWithContext, nil, nic.IP},
			{"ExternalIP", metadata.ExternalIP, metadata.ExternalIPWithContext, nil, nic.AccessConfigs[0].ExternalIP},
			{"Hostname", metadata.Hostname, metadata.HostnameWithContext, nil, d.Instance.Hostname},
			{"InstanceID", metadata.InstanceID, metadata.InstanceIDWithContext, nil, d.Instance.ID.String()},
			{"InstanceName", metadata.InstanceName, metadata.InstanceNameWithContext, nil, d.Instance.Name},
			{"Zone", metadata.Zone, metadata.ZoneWithContext, nil, zone},
			{"InstanceTags", metadata.InstanceTags, metadata.InstanceTagsWithContext, nil, d.Instance.Tags},
			{"InstanceAttributes", metadata.InstanceAttributes, metadata.InstanceAttributesWithContext, nil, keys(d.Instance.Attributes)},
			{"ProjectAttributes", metadata.ProjectAttributes, metadata.ProjectAttributesWithContext, nil, keys(d.Project.Attributes)},
			{"InstanceAttributeValue", metadata.InstanceAttributeValue, metadata.InstanceAttributeValueWithContext, []string{"startup-script"}, d.Instance.Attributes["startup-script"]},
			{"ProjectAttributeValue", metadata.ProjectAttributeValue, metadata.ProjectAttributeValueWithContext, []string{"demo-project-key"}, d.Project.Attributes["demo-project-key"]},
			{"Email", metadata.Email, metadata.EmailWithContext, []string{""}, account.Email},
			{"Email", metadata.Email, metadata.EmailWithContext, []string{account.Email}, account.Email},
			{"Scopes", metadata.Scopes, metadata.ScopesWithContext, []string{""}, account.Scopes},
			{"Get", metadata.Get, metadata.GetWithContext, []string{"instance/machine-type"}, d.Instance.MachineType},
		}
		client := reflect.ValueOf(metadata.NewWithOptions(&metadata.Options{Client: http.DefaultClient}))
		tried := map[string]bool{"OnGCEWithContext": true, "Subscribe": true, "SubscribeWithContext": true} // by other tests here
		for _, c := range table {
			for name, f := range map[string]reflect.Value{
				c.name:                             reflect.ValueOf(c.get),
				c.name + "WithContext":             reflect.ValueOf(c.getContext),
				"Client." + c.name:                 client.MethodByName(c.name),
				"Client." + c.name + "WithContext": client.MethodByName(c.name + "WithContext"),
			} {
				var in []reflect.Value
				if strings.HasSuffix(name, "WithContext") {
					in = append(in, reflect.ValueOf(t.Context()))
				}
				for _, arg := range c.arg {
					in = append(in, reflect.ValueOf(arg))
				}
				out := f.Call(in)
				if got, err := out[0].Interface(), out[1].Interface(); err != nil || !reflect.DeepEqual(got, c.want) {
					t.Errorf("%s(%q) = %q, %v; want %q", name, c.arg, got, err, c.want)
				}
			}
			tried[c.name], tried[c.name+"WithContext"] = true, true
		}
		for m := range client.Type().Methods() {
			if !tried[m.Name] {
				t.Errorf("the package has a function %s that this test does not try", m.Name)
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

func of[T any](f func(string) (T, error), arg string) func() (any, error) {
	return func() (any, error) { return f(arg) }
}

func keys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
