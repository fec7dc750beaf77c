package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gcemds/gcemds/internal/config"
	"github.com/gcemds/gcemds/internal/gke"
)

func newGKE() *cobra.Command {
	c := &cobra.Command{
		Use:   "gke",
		Short: "Set up identities for Pods, and explain those they get",
		Long: `Commands for clusters in which gcemds gives every Pod the identity of its service
account (docs/how-to/kubernetes-pods.md). They change nothing.`,
		Example: `  gcemds gke setup --project my-project --project-number 123456789012
  gcemds gke explain shop/web-5d9c --config gcemds.yaml`,
	}
	c.AddCommand(newGKESetup(), newGKEExplain())
	return c
}

// kubernetes opens the cluster of the kubeconfig file that kubectl would use.
func kubernetes(file string) (*gke.Kubernetes, error) {
	if file == "" {
		file, _, _ = strings.Cut(os.Getenv("KUBECONFIG"), string(os.PathListSeparator))
	}
	if home, err := os.UserHomeDir(); file == "" && err == nil {
		usual := filepath.Join(home, ".kube", "config")
		if _, err := os.Stat(usual); err == nil {
			file = usual
		}
	}
	k, err := gke.OpenKubernetes(file, "gcemds/"+version())
	if err != nil {
		return nil, fmt.Errorf("no cluster to ask: %w (--kubeconfig FILE, or the variable KUBECONFIG)", err)
	}
	return k, nil
}

const kubeconfigHelp = "`FILE` that leads to the cluster; default KUBECONFIG, ~/.kube/config, or the account of our own Pod"

func newGKESetup() *cobra.Command {
	var s gke.Setup
	var file, format, upload, account string
	var asJSON, probe bool
	c := &cobra.Command{
		Use:   "setup",
		Short: "Print what Google needs to know of this cluster, as commands",
		Long: `Read from the cluster who signs the tokens of its service accounts, and print the
commands that make a workload identity pool and a provider for it, let a service
account do something, and install gcemds. Nothing is changed: look through them and
run them.

Google fetches the keys of the cluster from its issuer, or gets them with the
provider where it cannot. Which it is, the address of the issuer tells; --probe
tries it, and --upload-jwks says it.

Keys that Google got change with the signing key of the cluster. --output-jwks
writes those of today to a file, and without --project does nothing else.`,
		Example: `  gcemds gke setup --project my-project --project-number 123456789012
  gcemds gke setup --project my-project --project-number 12345 --account shop/web
  gcemds gke setup --project my-project --project-number 12345 --format terraform
  gcemds gke setup --output-jwks cluster-jwks.json`,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			keysOnly := s.KeysFile != "" && s.ProjectID == "" && s.ProjectNumber == ""
			if account != "" {
				if s.Namespace, s.Account, err = gke.ParseName(account); err != nil {
					err = fmt.Errorf("--account: %w", err)
				}
			}
			if !keysOnly {
				err = errors.Join(err, s.Validate())
			}
			err = errors.Join(err, checkLanguage(format))
			if upload != "auto" && upload != "always" && upload != "never" {
				err = errors.Join(err, fmt.Errorf("--upload-jwks is auto, always or never, not %q", upload))
			}
			if err != nil {
				return &usageError{err, c.CommandPath()}
			}
			k, err := kubernetes(file)
			if err != nil {
				return err
			}
			if s.Issuer, err = gke.ReadIssuer(c.Context(), k); err != nil {
				return err
			}
			if s.KeysFile != "" {
				if err := os.WriteFile(s.KeysFile, append(slices.Clip(s.Issuer.Keys), '\n'), 0o644); err != nil {
					return err
				}
			}
			if keysOnly {
				return nil
			}
			if s.Why = s.Issuer.Hidden(); probe {
				s.Why = s.Issuer.Probe(c.Context())
			}
			switch s.Upload = upload == "always" || upload == "auto" && s.Why != ""; {
			case !s.Upload:
				s.Why = ""
			case s.Why == "":
				s.Why = "you say so"
			}
			switch out := c.OutOrStdout(); {
			case asJSON:
				return printJSON(out, s)
			case gke.Language(format) == gke.Terraform:
				_, err = io.WriteString(out, s.Terraform())
			default:
				_, err = io.WriteString(out, s.Gcloud())
			}
			return err
		},
	}
	c.Flags().SortFlags = false
	c.Flags().StringVar(&s.ProjectID, "project", "", "`ID` of the project of the pool")
	c.Flags().StringVar(&s.ProjectNumber, "project-number", "", "its `NUMBER`")
	c.Flags().StringVar(&s.Pool, "pool", "gcemds", "`NAME` of the pool")
	c.Flags().StringVar(&s.Provider, "provider", "cluster", "`NAME` of the provider; one for each cluster")
	c.Flags().StringVar(&account, "account", "", "`NAMESPACE/NAME` of a service account to begin with")
	c.Flags().StringVar(&s.Target, "gsa", "", "`EMAIL` of the Google service account that it acts as; without, it is given a role itself")
	c.Flags().StringVar(&upload, "upload-jwks", "auto", "`WHEN` Google gets the keys with the provider: auto, always or never")
	c.Flags().BoolVar(&probe, "probe", false, "try to fetch the keys from the issuer as Google does")
	c.Flags().StringVar(&s.KeysFile, "output-jwks", "", "write the keys to this `FILE`, which the commands then use")
	c.Flags().StringVar(&format, "format", string(gke.Gcloud), "`FORMAT`: gcloud or terraform")
	c.Flags().StringVar(&file, "kubeconfig", "", kubeconfigHelp)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func checkLanguage(format string) error {
	if l := gke.Language(format); l != gke.Gcloud && l != gke.Terraform {
		return fmt.Errorf("--format is gcloud or terraform, not %q", format)
	}
	return nil
}

func newGKEExplain() *cobra.Command {
	var e gke.Explanation
	var file, configFile string
	var asJSON bool
	c := &cobra.Command{
		Use:   "explain NAMESPACE/POD",
		Short: "Go the way from a Pod to its tokens, and tell where it breaks",
		Long: `Go the way from a Pod to its tokens step by step, as the server on its node does:
the Pod, its service account and annotations, a token of the cluster, its exchange
at Google, and the account it acts as. Each step tells what was found, and the one
that fails what mends it. Tokens are made and thrown away, and none is printed.

It asks with your own rights to the cluster, and needs that of the server: to
create serviceaccounts/token. The configuration is that of the server; that of the
chart is in its ConfigMap. The exit code is 1 if a step fails.`,
		Example: `  gcemds gke explain shop/web-5d9c --config gcemds.yaml
  gcemds gke explain shop/web-5d9c --config gcemds.yaml --audience https://x.example
  gcemds gke explain shop/web-5d9c --project my-project --provider NAME`,
		RunE: func(c *cobra.Command, args []string) error {
			namespace, pod, err := gke.ParseName(args[0])
			if err = errors.Join(err, checkLanguage(string(e.Language))); err != nil {
				return &usageError{err, c.CommandPath()}
			}
			if configFile != "" {
				data, err := os.ReadFile(configFile)
				if err != nil {
					return err
				}
				loaded, err := config.Load(configFile, data)
				if err != nil {
					return explainConfig(err)
				}
				if loaded.GKE == nil {
					return fmt.Errorf("%s has no section gke", configFile)
				}
				given := e.Config
				e.Config = *loaded.GKE
				e.Config.ProjectID = cmp.Or(given.ProjectID, e.Config.ProjectID)
				if given.Provider.WorkloadIdentity != "" {
					e.Config.Provider = given.Provider
				}
				e.Google.STS, e.Google.IAM = loaded.Endpoints.STS, loaded.Endpoints.IAMCredentials
			}
			k, err := kubernetes(file)
			if err != nil {
				return err
			}
			e.API = k
			return explain(c.Context(), e, namespace, pod, c.OutOrStdout(), asJSON)
		},
	}
	c.Flags().SortFlags = false
	c.Flags().StringVar(&configFile, "config", "", "`FILE` of the server's configuration")
	c.Flags().StringVar(&e.Config.ProjectID, "project", "", "`ID` of the project, instead of a configuration")
	c.Flags().StringVar(&e.Config.Provider.WorkloadIdentity, "provider", "", "`NAME` of the provider in full: projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER")
	c.Flags().StringVar(&e.Audience, "audience", "", "explain an ID token for this `AUDIENCE`, too")
	c.Flags().StringSliceVar(&e.Scopes, "scopes", nil, "`SCOPES` of the access token, separated by commas")
	c.Flags().StringVar((*string)(&e.Language), "format", string(gke.Gcloud), "`FORMAT` of what mends it on Google's side: gcloud or terraform")
	c.Flags().StringVar(&file, "kubeconfig", "", kubeconfigHelp)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// explain prints each step as it is known, in the manner of doctor.
func explain(ctx context.Context, e gke.Explanation, namespace, pod string, w io.Writer, asJSON bool) error {
	broken := false
	findings := []finding{}
	err := e.Explain(ctx, namespace, pod, func(s gke.Step) {
		f := finding{Check: s.Name, Severity: fine, What: s.Says, Fix: s.Fix}
		if s.Bad {
			f.Severity, broken = problem, true
		}
		findings = append(findings, f)
		if !asJSON {
			fmt.Fprint(w, f)
		}
	})
	if err != nil {
		return err
	}
	if asJSON {
		if err := printJSON(w, findings); err != nil {
			return err
		}
	}
	if broken {
		return errors.New("the Pod gets no token")
	}
	return nil
}
