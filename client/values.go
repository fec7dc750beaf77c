package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// ProjectID returns the project's name, such as "my-project".
func (c *Client) ProjectID(ctx context.Context) (string, error) {
	return c.text(ctx, "project/project-id")
}

// NumericProjectID returns the project's number in decimal digits.
func (c *Client) NumericProjectID(ctx context.Context) (string, error) {
	return c.text(ctx, "project/numeric-project-id")
}

// InstanceID returns the ID of the machine: up to 20 decimal digits on Compute
// Engine, longer and not a number on Cloud Run.
func (c *Client) InstanceID(ctx context.Context) (string, error) {
	return c.text(ctx, "instance/id")
}

// InstanceName returns the name of the machine.
func (c *Client) InstanceName(ctx context.Context) (string, error) {
	return c.text(ctx, "instance/name")
}

// Hostname returns the full DNS name of the machine.
func (c *Client) Hostname(ctx context.Context) (string, error) {
	return c.text(ctx, "instance/hostname")
}

// Zone returns the zone of the machine, such as "europe-west1-b". On Cloud Run
// it is one that does not exist, in the right region.
func (c *Client) Zone(ctx context.Context) (string, error) {
	zone, err := c.text(ctx, "instance/zone") // projects/123/zones/europe-west1-b
	return zone[strings.LastIndexByte(zone, '/')+1:], err
}

// Region returns the region of the machine, such as "europe-west1". Compute
// Engine does not publish it, so it is derived from the zone.
func (c *Client) Region(ctx context.Context) (string, error) {
	zone, err := c.Zone(ctx)
	return zone[:max(strings.LastIndexByte(zone, '-'), 0)], err
}

// Attribute returns a custom attribute: that of the machine, or else that of
// its project. An attribute that neither has is an error of kind NotFound.
func (c *Client) Attribute(ctx context.Context, name string) (string, error) {
	value, err := c.Get(ctx, "instance/attributes/"+url.PathEscape(name))
	if errors.Is(err, NotFound) {
		return c.Get(ctx, "project/attributes/"+url.PathEscape(name))
	}
	return value, err
}

// Attributes returns all custom attributes of the project and of the machine,
// which win.
func (c *Client) Attributes(ctx context.Context) (map[string]string, error) {
	all := map[string]string{}
	for _, of := range []string{"project", "instance"} {
		var some map[string]string
		if err := c.Tree(ctx, of+"/attributes/", &some); err != nil && !errors.Is(err, NotFound) {
			return nil, err
		}
		maps.Copy(all, some)
	}
	return all, nil
}

// Email returns the address of a service account, which is given by alias or
// address; "" is "default". On GKE it may be the name of a workload pool. No
// such account is an error of kind Denied, as for Tokens.
func (c *Client) Email(ctx context.Context, account string) (string, error) {
	email, err := c.text(ctx, accountPath(account)+"email")
	return email, ofAccount("e-mail", account, err)
}

// Scopes returns the scopes that a service account has on this machine. The
// account is given as for Email, and so are errors.
func (c *Client) Scopes(ctx context.Context, account string) ([]string, error) {
	list, err := c.text(ctx, accountPath(account)+"scopes")
	return strings.Fields(list), ofAccount("scopes", account, err)
}

// accountPath returns the directory of an account.
func accountPath(account string) string {
	return "instance/service-accounts/" + url.PathEscape(cmp.Or(account, "default")) + "/"
}

// ofAccount returns the error for something of an account that is not there: the
// server only knows that a path is not.
func ofAccount(what, account string, err error) error {
	var e *Error
	if errors.As(err, &e) && (e.Kind == NotFound || e.Kind == Denied) {
		e.Kind = Denied
		e.Err = fmt.Errorf("no %s of account %q: %w", what, cmp.Or(account, "default"), e.Err)
		e.Hint = "Give this machine a service account, or ask for one that it has: they are listed at instance/service-accounts/."
		if e.Status != http.StatusNotFound {
			e.Hint = "Whoever runs the metadata server or manages the account can permit it."
		}
	}
	return err
}

// MaintenanceEvent returns what is about to happen to the machine: "NONE",
// "MIGRATE_ON_HOST_MAINTENANCE" from 60 seconds before a live migration, or
// "TERMINATE_ON_HOST_MAINTENANCE" from 60 minutes before a stop. By Google's
// documentation, the notice of 60 seconds is only for those who have asked since
// the last event, so ask once at start, or use Watch on
// "instance/maintenance-event".
func (c *Client) MaintenanceEvent(ctx context.Context) (string, error) {
	return c.text(ctx, "instance/maintenance-event")
}

// Preempted says whether the machine is being preempted; it is off in 30
// seconds then, or in 120 if it was made so. To be told, use Watch on
// "instance/preempted".
func (c *Client) Preempted(ctx context.Context) (bool, error) {
	s, err := c.text(ctx, "instance/preempted")
	return strings.EqualFold(s, "TRUE"), err
}

// A Maintenance is work on the host that is planned or under way. Fields that
// the server does not give are zero.
type Maintenance struct {
	Type              string // SCHEDULED, UNSCHEDULED or MULTIPLE
	Status            string // PENDING or ONGOING
	CanReschedule     bool
	WindowStart       time.Time
	WindowEnd         time.Time
	LatestWindowStart time.Time
}

// UpcomingMaintenance returns the maintenance that is planned, or nil if none
// is or this type of machine is not told.
func (c *Client) UpcomingMaintenance(ctx context.Context) (*Maintenance, error) {
	a, err := c.ask(ctx, request{path: "instance/upcoming-maintenance", query: "alt=json", final: noNotifications})
	if errors.Is(err, NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := parseMaintenance(a.body)
	if err != nil {
		return nil, a.malformed(err)
	}
	return m, nil
}

// noNotifications is what the body of the 503 contains that real machines
// answer as long as nothing has been planned since they booted.
const noNotifications = "no notifications have been received yet"

// parseMaintenance reads the value of upcoming-maintenance: an object whose keys
// are in snake case by the documents and in camel case on some machines, or one
// of several forms of nothing.
func parseMaintenance(body string) (*Maintenance, error) {
	switch strings.TrimSpace(body) {
	case "", "NONE", `"NONE"`, "null":
		return nil, nil
	}
	if strings.Contains(body, noNotifications) {
		return nil, nil
	}
	var given map[string]any
	if err := json.Unmarshal([]byte(body), &given); err != nil || len(given) == 0 {
		return nil, err
	}
	plain := map[string]any{} // can_reschedule is canreschedule, and for encoding/json so is canReschedule
	for key, v := range given {
		if v != "" {
			plain[strings.ReplaceAll(key, "_", "")] = v
		}
	}
	data, err := json.Marshal(plain)
	if err != nil {
		return nil, err
	}
	var m struct {
		Type, MaintenanceStatus                               string
		CanReschedule                                         any // "TRUE", or true
		WindowStartTime, WindowEndTime, LatestWindowStartTime time.Time
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, err
	}
	return &Maintenance{
		Type:              m.Type,
		Status:            m.MaintenanceStatus,
		CanReschedule:     strings.EqualFold(fmt.Sprint(m.CanReschedule), "TRUE"),
		WindowStart:       m.WindowStartTime,
		WindowEnd:         m.WindowEndTime,
		LatestWindowStart: m.LatestWindowStartTime,
	}, nil
}

// text returns a value without white space around it, which some servers add.
func (c *Client) text(ctx context.Context, path string) (string, error) {
	s, err := c.Get(ctx, path)
	return strings.TrimSpace(s), err
}
