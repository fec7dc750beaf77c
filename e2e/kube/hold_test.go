package kube

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

var hold = flag.Bool("hold", false, "make a world with a Pod in it, say how to get there, and keep it until the program is interrupted")

// holdWorld is what -hold asks for.
func holdWorld() error {
	w, err := startWorld(&everything, 2)
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	for _, command := range [][]string{
		{"", "create", "serviceaccount", "app"},
		{pod{name: "app", machine: true}.manifest(), "apply", "--filename=-"},
		{"", "wait", "--for=condition=Ready", "pod/app", "--timeout=" + patience.String()},
	} {
		if _, err := w.try(ctx, command[0], command[1:]...); err != nil {
			return err
		}
	}
	fmt.Printf("world %s\n", w.pid)
	for name, cmd := range map[string]string{
		"kubectl": strings.Join(w.command(ctx, filepath.Join(bin, "kubectl"), "--kubeconfig="+w.file("admin.kubeconfig")).Args, " "),
		"node-1":  strings.Join(w.command(ctx, "nsenter", "--net=/run/netns/node-1", "--mount=/run/mounts/node-1").Args, " "),
	} {
		fmt.Printf("%s() { %s \"$@\"; }\n", name, cmd)
	}
	fmt.Printf("logs are in %s\n", w.dir)
	<-ctx.Done()
	return nil
}
