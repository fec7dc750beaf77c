package client_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/gcemds/gcemds"
	"github.com/gcemds/gcemds/client"
)

// serve starts a metadata server for an example; on Google Cloud, there is one.
func serve() (s *gcemds.Server, stop func()) {
	s, err := gcemds.New(gcemds.Options{})
	if err == nil {
		err = s.Start("127.0.0.1:0")
	}
	if err != nil {
		panic(err)
	}
	return s, func() { s.Shutdown(context.Background()) }
}

func Example() {
	s, stop := serve()
	defer stop()
	ctx := context.Background()

	c := client.Client{Host: s.Addr()} // on Google Cloud: var c client.Client
	project, err := c.ProjectID(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(project)
	// Output: demo-project
}

func ExampleClient() {
	s, stop := serve()
	defer stop()

	c := client.Client{
		Host:     s.Addr(),
		HTTP:     &http.Client{Transport: &http.Transport{}}, // a unix socket or TLS goes here
		Patience: 10 * time.Second,
		Parallel: true,
		Logger:   slog.Default(),
	}
	fmt.Println(c.InstanceName(context.Background()))
	// Output: demo-instance <nil>
}

func ExampleClient_Get() {
	s, stop := serve()
	defer stop()
	c := client.Client{Host: s.Addr()}
	ctx := context.Background()

	cpu, err := c.Get(ctx, "instance/cpu-platform")
	fmt.Println(cpu, err)
	disk, err := c.Get(ctx, "instance/disks/0/?recursive=true&alt=text")
	fmt.Print(disk)
	fmt.Println(err)
	// Output:
	// Intel Broadwell <nil>
	// device-name demo-instance
	// index 0
	// interface SCSI
	// mode READ_WRITE
	// type PERSISTENT-BALANCED
	// <nil>
}

func ExampleClient_Tree() {
	s, stop := serve()
	defer stop()
	c := client.Client{Host: s.Addr()}
	ctx := context.Background()

	var machine struct {
		ID                uint64
		NetworkInterfaces []struct{ IP, MAC string }
	}
	if err := c.Tree(ctx, "instance/", &machine); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(machine.ID, machine.NetworkInterfaces[0].IP)

	var everything map[string]any
	if err := c.Tree(ctx, "", &everything); err != nil {
		fmt.Println(err)
		return
	}
	number := everything["project"].(map[string]any)["numericProjectId"]
	fmt.Printf("%T %v\n", number, number)
	// Output:
	// 5193847261058203746 10.128.0.2
	// json.Number 123456789012
}

// A flag that operators set and remove while the program runs.
func ExampleClient_Watch() {
	s, stop := serve()
	defer stop()
	c := client.Client{Host: s.Addr()}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	for value, err := range c.Watch(ctx, "instance/attributes/drain") {
		switch {
		case errors.Is(err, client.NotFound):
			fmt.Println("not set")
			s.Set("instance/attributes/drain", "yes")
		case errors.Is(err, client.Transient):
			fmt.Println("the server is away:", err)
		case err != nil:
			fmt.Println(err)
		default:
			fmt.Println("drain:", value)
			cancel()
		}
	}
	// Output:
	// not set
	// drain: yes
}

func ExampleClient_Detect() {
	s, stop := serve()
	defer stop()
	c := client.Client{Host: s.Addr()}

	d := c.Detect(context.Background())
	fmt.Println(d.OnGoogleCloud, d.Answers)
	// Output: true true
}

func ExampleDetection() {
	d := client.Detection{
		OnGoogleCloud: true,
		Evidence: []client.Evidence{
			{Source: "firmware", Supports: true, Detail: `the product name is "Google Compute Engine"`},
			{Source: "server", Detail: "169.254.169.254 does not answer: connection refused"},
		},
	}
	if d.OnGoogleCloud && !d.Answers {
		fmt.Println("The metadata server is late:", d.Evidence)
	}
	// Output: The metadata server is late: [firmware: the product name is "Google Compute Engine" server: 169.254.169.254 does not answer: connection refused]
}

func ExampleEvidence() {
	fmt.Println(client.Evidence{Source: "DNS", Detail: "metadata.google.internal is not known"})
	// Output: DNS: metadata.google.internal is not known
}

func ExampleClient_ProjectID() {
	s, stop := serve()
	defer stop()
	c := client.Client{Host: s.Addr()}
	fmt.Println(c.ProjectID(context.Background()))
	// Output: demo-project <nil>
}

func ExampleClient_NumericProjectID() {
	s, stop := serve()
	defer stop()
	c := client.Client{Host: s.Addr()}
	fmt.Println(c.NumericProjectID(context.Background()))
	// Output: 123456789012 <nil>
}

func ExampleClient_InstanceID() {
	s, stop := serve()
	defer stop()
	c := client.Client{Host: s.Addr()}
	fmt.Println(c.InstanceID(context.Background()))
	// Output: 5193847261058203746 <nil>
}

func ExampleClient_InstanceName() {
	s, stop := serve()
	defer stop()
	c := client.Client{Host: s.Addr()}
	fmt.Println(c.InstanceName(context.Background()))
	// Output: demo-instance <nil>
}

func ExampleClient_Hostname() {
	s, stop := serve()
	defer stop()
	c := client.Client{Host: s.Addr()}
	fmt.Println(c.Hostname(context.Background()))
	// Output: demo-instance.us-central1-a.c.demo-project.internal <nil>
}

func ExampleClient_Zone() {
	s, stop := serve()
	defer stop()
	c := client.Client{Host: s.Addr()}
	fmt.Println(c.Zone(context.Background()))
	// Output: us-central1-a <nil>
}

func ExampleClient_Region() {
	s, stop := serve()
	defer stop()
	c := client.Client{Host: s.Addr()}
	fmt.Println(c.Region(context.Background()))
	// Output: us-central1 <nil>
}

func ExampleClient_Attribute() {
	s, stop := serve()
	defer stop()
	s.Set("project/attributes/bucket", "everybodys")
	c := client.Client{Host: s.Addr()}
	ctx := context.Background()

	fmt.Println(c.Attribute(ctx, "bucket"))
	s.Set("instance/attributes/bucket", "mine")
	fmt.Println(c.Attribute(ctx, "bucket"))
	_, err := c.Attribute(ctx, "color")
	fmt.Println(errors.Is(err, client.NotFound))
	// Output:
	// everybodys <nil>
	// mine <nil>
	// true
}

func ExampleClient_Attributes() {
	s, stop := serve()
	defer stop()
	s.Set("instance/attributes", map[string]string{"color": "blue"})
	s.Set("project/attributes", map[string]string{"color": "red", "size": "L"})
	c := client.Client{Host: s.Addr()}
	fmt.Println(c.Attributes(context.Background()))
	// Output: map[color:blue size:L] <nil>
}

func ExampleClient_Email() {
	s, stop := serve()
	defer stop()
	c := client.Client{Host: s.Addr()}
	fmt.Println(c.Email(context.Background(), "")) // of the default account
	// Output: 123456789012-compute@developer.gserviceaccount.com <nil>
}

func ExampleClient_Scopes() {
	s, stop := serve()
	defer stop()
	c := client.Client{Host: s.Addr()}
	fmt.Println(c.Scopes(context.Background(), ""))
	// Output: [https://www.googleapis.com/auth/cloud-platform] <nil>
}

func ExampleClient_MaintenanceEvent() {
	s, stop := serve()
	defer stop()
	s.Set("instance/maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE")
	c := client.Client{Host: s.Addr()}
	fmt.Println(c.MaintenanceEvent(context.Background()))
	// Output: MIGRATE_ON_HOST_MAINTENANCE <nil>
}

func ExampleClient_Preempted() {
	s, stop := serve()
	defer stop()
	c := client.Client{Host: s.Addr()}
	fmt.Println(c.Preempted(context.Background()))
	// Output: false <nil>
}

func ExampleClient_UpcomingMaintenance() {
	s, stop := serve()
	defer stop()
	c := client.Client{Host: s.Addr()}
	m, err := c.UpcomingMaintenance(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	if m == nil {
		fmt.Println("nothing is planned")
	}
	// Output: nothing is planned
}

func ExampleMaintenance() {
	m := client.Maintenance{Status: "PENDING", CanReschedule: true, WindowStart: time.Date(2026, 3, 1, 2, 0, 0, 0, time.UTC)}
	if m.Status == "PENDING" && m.CanReschedule {
		fmt.Println("choose a better time than", m.WindowStart.Format(time.RFC1123))
	}
	// Output: choose a better time than Sun, 01 Mar 2026 02:00:00 UTC
}

func ExampleTokens() {
	s, stop := serve()
	defer stop()
	tokens := &client.Tokens{
		Client: &client.Client{Host: s.Addr()},
		Scopes: []string{"https://www.googleapis.com/auth/pubsub"},
	}
	token, err := tokens.Token(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	req, _ := http.NewRequest(http.MethodGet, "https://pubsub.googleapis.com/v1/projects/demo-project/topics", nil)
	req.Header.Set("Authorization", "Bearer "+token.Value)
	fmt.Println(token.Email, time.Until(token.Expiry) > 5*time.Minute)
	// Output: 123456789012-compute@developer.gserviceaccount.com true
}

// ID tokens prove to a service who calls it.
func ExampleTokens_audience() {
	s, stop := serve()
	defer stop()
	tokens := &client.Tokens{Client: &client.Client{Host: s.Addr()}, Audience: "https://service.example.com"}
	token, err := tokens.Token(context.Background())
	fmt.Println(token.Email, err)
	// Output: 123456789012-compute@developer.gserviceaccount.com <nil>
}

// The request takes its token from the cache, in nanoseconds.
func ExampleTokens_Token() {
	s, stop := serve()
	defer stop()
	tokens := &client.Tokens{Client: &client.Client{Host: s.Addr()}}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	first, err := tokens.Token(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	second, err := tokens.Token(ctx)
	fmt.Println(first == second, err)
	// Output: true <nil>
}

// An API says that a token is no longer good, although it has not expired.
func ExampleTokens_Refresh() {
	s, stop := serve()
	defer stop()
	tokens := &client.Tokens{Client: &client.Client{Host: s.Addr()}}
	ctx := context.Background()

	call := func() int { return http.StatusUnauthorized } // with a token
	if call() == http.StatusUnauthorized {
		_, err := tokens.Refresh(ctx)
		fmt.Println(err)
	}
	// Output: <nil>
}

// A program that has a cache of its own uses Mint and Key.
func ExampleTokens_Mint() {
	s, stop := serve()
	defer stop()
	c := &client.Client{Host: s.Addr()}

	cache := map[client.Key]client.Token{}
	tokens := &client.Tokens{Client: c, Audience: "https://service.example.com"}
	token, ok := cache[tokens.Key()]
	if !ok {
		var err error
		if token, err = tokens.Mint(context.Background()); err != nil {
			fmt.Println(err)
			return
		}
		cache[tokens.Key()] = token
	}
	fmt.Println(token.Email)
	// Output: 123456789012-compute@developer.gserviceaccount.com
}

func ExampleTokens_Key() {
	tokens := client.Tokens{Scopes: []string{"b", "a"}}
	fmt.Printf("%+v\n", tokens.Key())
	// Output: {Account:default Scopes:a b Audience:}
}

func ExampleKey() {
	a := client.Tokens{Scopes: []string{"b", "a"}}
	b := client.Tokens{Account: "default", Scopes: []string{"a", "b"}}
	fmt.Println(a.Key() == b.Key())
	// Output: true
}

// Printing a token does not show it.
func ExampleToken() {
	token := client.Token{Value: "secret", Expiry: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), Email: "robot@example.com"}
	fmt.Println(token)
	// Output: [token 2bb80d53 of robot@example.com, expires 2030-01-01T00:00:00Z]
}

func ExampleError() {
	s, stop := serve()
	defer stop()
	c := client.Client{Host: s.Addr()}

	_, err := c.Get(context.Background(), "instance/color")
	var e *client.Error
	if errors.As(err, &e) {
		fmt.Println(e.Kind, e.Status, e.Attempts)
	}
	// Output: not found 404 1
}

func ExampleKind() {
	s, stop := serve()
	defer stop()
	tokens := client.Tokens{
		Client: &client.Client{Host: s.Addr()},
		Scopes: []string{"https://www.googleapis.com/auth/drive"},
	}
	switch _, err := tokens.Token(context.Background()); {
	case errors.Is(err, client.Denied):
		fmt.Println("change the account or its scopes")
	case errors.Is(err, client.NoServer):
		fmt.Println("not on Google Cloud")
	case errors.Is(err, client.Transient):
		fmt.Println("try again later")
	}
	// Output: change the account or its scopes
}
