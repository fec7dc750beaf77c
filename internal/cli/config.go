package cli

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/gcemds/gcemds/internal/config"
	"github.com/gcemds/gcemds/internal/daemon"
)

func newConfig() *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "Check, show or begin a configuration",
		Example: `  gcemds config init > gcemds.yaml
  gcemds config check gcemds.yaml
  gcemds config show --origin`,
	}
	c.AddCommand(newConfigCheck(), newConfigShow(), newConfigInit())
	return c
}

func newConfigCheck() *cobra.Command {
	var mint, asJSON bool
	c := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Say everything that is wrong with a configuration",
		Long: `Say everything that is wrong with a configuration, with the line of each fault,
and with the documents and keys it names. Nothing is started.

With --mint, also get one token from each source, and show how: who signs, the
exchange, each account that is impersonated; or the step that failed, and what
to do. The tokens themselves are not shown.`,
		Example: "  gcemds config check gcemds.yaml\n  gcemds config check --mint gcemds.yaml",
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := resolve(c, args)
			if err != nil {
				return err
			}
			minted, err := daemon.Check(c.Context(), cfg, slog.New(slog.DiscardHandler), mint)
			if err != nil {
				return err
			}
			if mint && cfg.GKE != nil {
				fmt.Fprintln(c.ErrOrStderr(), "gcemds: the tokens of Pods are not tried here; gcemds gke explain NAMESPACE/POD --config FILE does that")
			}
			if mint {
				return printMinted(c.OutOrStdout(), minted, asJSON)
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), "ok")
			return err
		},
	}
	settingFlags(c)
	c.Flags().BoolVar(&mint, "mint", false, "get a token from each source, and say how that went")
	c.Flags().BoolVar(&asJSON, "json", false, "with --mint: print JSON")
	return c
}

func newConfigShow() *cobra.Command {
	var origin bool
	c := &cobra.Command{
		Use:     "show [FILE]",
		Short:   "Print the configuration that flags, variables and file make together",
		Example: "  gcemds config show --origin",
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := resolve(c, args)
			if err != nil {
				return err
			}
			return cfg.Show(c.OutOrStdout(), origin)
		},
	}
	settingFlags(c)
	c.Flags().BoolVar(&origin, "origin", false, "say where each value comes from")
	return c
}

func newConfigInit() *cobra.Command {
	return &cobra.Command{
		Use:     "init",
		Short:   "Print a file to begin with: every setting, explained, with its default",
		Example: "  gcemds config init > gcemds.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := c.OutOrStdout().Write(config.Init())
			return err
		},
	}
}

// resolve reads the configuration of flags, variables and, if there is an
// argument, that file.
func resolve(c *cobra.Command, args []string) (*config.Config, error) {
	flags := given(c)
	if len(args) > 0 {
		flags["config"] = args
	}
	cfg, warnings, err := config.Resolve(os.Environ(), flags)
	for _, w := range warnings {
		fmt.Fprintln(c.ErrOrStderr(), "gcemds: warning: "+w)
	}
	return cfg, err
}
