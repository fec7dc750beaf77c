package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"

	"github.com/gcemds/gcemds"
	"github.com/gcemds/gcemds/internal/config"
	"github.com/gcemds/gcemds/internal/intercept"
)

func newIntercept() *cobra.Command {
	c := &cobra.Command{
		Use:   "intercept",
		Short: "Lead programs that ask 169.254.169.254 to a server on this machine",
		Long: `Lead programs that ask 169.254.169.254 to a metadata server on this machine:
those of its Pods and containers, or all of them. It takes root, and Linux.

What is installed is in the kernel. It stays when this command and the server
end, so that programs are refused then, and never reach the metadata server of
a cloud in its place; "remove" and the end of the machine take it away. Only TCP
port 80 of the address is led away, never DNS.

A single machine needs none of this: gcemds serve --intercept does it.`,
		Example: `  gcemds intercept install
  gcemds intercept status
  gcemds intercept remove`,
	}
	c.AddCommand(newInterceptInstall(), newInterceptStatus(), newInterceptRemove())
	return c
}

// An interception is what the commands print: what is installed, and of the
// mode that installs nothing, the variables.
type interception struct {
	intercept.Status
	Environment map[string]string `json:"environment,omitempty"`
}

func newInterceptInstall() *cobra.Command {
	var p intercept.Plan
	var mode, to string
	var asJSON bool
	c := &cobra.Command{
		Use:   "install",
		Short: "Install a way in, or put right the one that is there",
		Long: `Install a way in, or put right what is there: a second time it does nothing,
and another mode or address takes the place of the first.

The modes:

  nftables     what Pods send to 169.254.169.254 is translated to 169.254.169.252:988
  loopback     the address itself is on lo; not in a cloud that has a server there
  ebpf         the destination is changed when a process below a cgroup connects
  environment  nothing is installed; variables for programs are printed
  auto         one of the first three: ebpf on a node with Cilium, nftables on other
               nodes, loopback or else ebpf on machines without Pods

Nobody outside this machine reaches the server through what is installed: what
comes from interfaces of a default route, from hardware and from tunnels is
dropped. If interfaces change, install again.`,
		Example: `  gcemds intercept install
  gcemds intercept install --mode nftables --host-network
  gcemds intercept install --mode ebpf --cgroup /sys/fs/cgroup/kubepods.slice
  gcemds intercept install --mode environment --to 10.0.0.5:8080`,
		RunE: func(c *cobra.Command, _ []string) error {
			err := p.Mode.UnmarshalText([]byte(mode))
			if err == nil && to != "" {
				if p.To, err = netip.ParseAddrPort(to); err != nil {
					err = fmt.Errorf("--to %s is not an address and a port, as in 169.254.169.252:988", to)
				}
			}
			if err != nil {
				return &usageError{err, c.CommandPath()}
			}
			s, err := intercept.Install(c.Context(), p)
			if err != nil {
				return err
			}
			out := interception{Status: s}
			if s.Mode == intercept.Environment {
				out.Environment = environment(s.To)
			}
			return out.print(c, asJSON)
		},
	}
	c.Flags().SortFlags = false
	c.Flags().StringVar(&mode, "mode", "auto", "`MODE`: auto, nftables, loopback, ebpf or environment")
	c.Flags().StringVar(&to, "to", "", "`ADDRESS:PORT` of IPv4 where the server listens; default 169.254.169.252:988, with loopback 169.254.169.254:80, with environment 127.0.0.1:8080")
	c.Flags().BoolVar(&p.HostNetwork, "host-network", false, "with nftables, lead programs of this machine to it, too; the other modes do anyway")
	c.Flags().BoolVar(&p.IPv6, "ipv6", false, "lead fd20:ce::254 to it, too (to the same port of fd20:ce::252), if this machine can")
	c.Flags().StringVar(&p.Cgroup, "cgroup", "", "`DIR` of cgroup2 below which ebpf acts; default that of the Pods, on machines without Pods all")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func newInterceptStatus() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what is installed, and what is wrong with it",
		Long: `Show what is installed. If something is not as "install" leaves it, or nothing is
there, the exit code is 1, and another "install" puts it right.`,
		Example: `  gcemds intercept status
  gcemds intercept status --json`,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := intercept.Read()
			if err != nil {
				return err
			}
			if err := (interception{Status: s}).print(c, asJSON); err != nil {
				return err
			}
			if len(s.Faults) > 0 || s.Mode == "" {
				return &ended{code: exitError}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func newInterceptRemove() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "remove",
		Short: "Take away what is installed",
		Long: `Take away what "install" has left, whole or in part, and nothing else. Programs
reach what they reached before: in a cloud, the identity of the machine.`,
		Example: `  gcemds intercept remove`,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := intercept.Remove()
			if err != nil {
				return err
			}
			return interception{Status: s}.print(c, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// print prints for people or for programs; what could not be had goes to
// stderr.
func (i interception) print(c *cobra.Command, asJSON bool) error {
	out := c.OutOrStdout()
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(i)
	}
	for _, note := range i.Notes {
		fmt.Fprintln(c.ErrOrStderr(), "gcemds: "+note)
	}
	for _, name := range slices.Sorted(maps.Keys(i.Environment)) {
		fmt.Fprintf(out, "export %s=%s\n", name, i.Environment[name])
	}
	switch i.Mode {
	case intercept.Environment:
		return nil
	case "":
		fmt.Fprintln(out, "nothing is installed")
	default:
		leads(out, i.Status)
	}
	for _, done := range i.Changed {
		fmt.Fprintln(out, "  "+done)
	}
	for _, fault := range i.Faults {
		fmt.Fprintln(out, "  wrong: "+fault)
	}
	return nil
}

// leads says where connections go.
func leads(out io.Writer, s intercept.Status) {
	who := "of Pods and containers "
	switch {
	case s.Mode == intercept.EBPF:
		who = "of processes below " + s.Cgroup + " "
	case s.Mode == intercept.Loopback || s.HostNetwork:
		who = ""
	}
	fmt.Fprintf(out, "%s: connections %sto 169.254.169.254:80 lead to %v", s.Mode, who, s.To)
	if s.To6.IsValid() {
		fmt.Fprintf(out, ", to [fd20:ce::254]:80 to %v", s.To6)
	}
	fmt.Fprintln(out)
	if s.Why != "" {
		fmt.Fprintf(out, "  because %s\n", s.Why)
	}
}

// environment is the variables for programs that shall find the server at an
// address. A folder of gcloud for them is not ours to name.
func environment(to netip.AddrPort) map[string]string {
	set := gcemds.Environ(to.String(), "")
	maps.DeleteFunc(set, func(_, value string) bool { return value == "" })
	return set
}

// interceptFor makes the machine lead its programs to the server that is about
// to start with this configuration. The address that the server has to listen
// on, beside its others, is zero if there is none. What was not there before
// is taken away by undo, which may be called once.
func interceptFor(c *cobra.Command, mode string) (s intercept.Status, undo func() error, err error) {
	undo = func() error { return nil }
	if mode == "none" {
		return s, undo, nil
	}
	p := intercept.Plan{Mode: intercept.Mode(mode), HostNetwork: true}
	if p.Mode != intercept.Environment {
		before, err := intercept.Read()
		if err != nil {
			return s, undo, err
		}
		if before.Mode == "" {
			undo = func() error { _, err := intercept.Remove(); return err }
		}
	}
	if s, err = intercept.Install(c.Context(), p); err != nil {
		undo() // what there is of it
	}
	return s, undo, err
}

// listening is the configuration with one more listener, at the address where
// connections are led. It needs no leave to be reached from other machines:
// they are kept out.
func listening(c *config.Config, s intercept.Status) *config.Config {
	if s.Mode == "" || s.Mode == intercept.Environment {
		return c
	}
	at := s.To.String()
	if slices.ContainsFunc(c.Listen, func(l config.Listener) bool { return l.TCP == at }) {
		return c
	}
	more := *c
	more.Listen = append(slices.Clone(c.Listen), config.Listener{Name: "intercept", TCP: at, AllowRemote: true})
	return &more
}
