package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/gcemds/gcemds/internal/config"
	"github.com/gcemds/gcemds/internal/credential"
)

func newTPM() *cobra.Command {
	c := &cobra.Command{
		Use:   "tpm",
		Short: "Keep the key of a service account in a TPM 2.0",
		Long: `Keep the key of a service account in a TPM 2.0, where it signs and cannot be
copied. Passwords are given by reference: file:PATH, env:NAME, fd:N or
credential:NAME.`,
		Example: `  gcemds tpm init
  gcemds tpm import sa.json --key-file robot.tss.pem
  gcemds tpm cert --email robot@p.iam.gserviceaccount.com --key-file robot.tss.pem > robot.crt
  gcemds tpm check --config gcemds.yaml --mint`,
	}
	c.AddCommand(newTPMInit(), newTPMImport(), newTPMCert(), newTPMCheck())
	return c
}

// deviceFlags are those of every command that reaches a TPM without a
// configuration; they are the fields of the source.
func deviceFlags(c *cobra.Command, k *credential.TPMKey) {
	f := c.Flags()
	f.StringVar(&k.Device, "device", "", "TPM: a device, unix:/PATH or tcp:HOST:PORT; default that of the system")
	f.StringVar(&k.Parent, "parent", "", "parent of the key: h2 (default), rsa-srk, ecc-srk, ek-rsa or a handle")
	f.StringVar((*string)(&k.OwnerPassword), "owner-password", "", "password of the owner hierarchy, by reference")
	f.StringVar((*string)(&k.EndorsementPassword), "endorsement-password", "", "password of the endorsement hierarchy, by reference")
	f.StringVar(&k.EKName, "ek-name", "", "name of the TPM's endorsement key; use no other TPM, and encrypt what is said to it")
}

// keyFlags are those of commands that make a key, besides deviceFlags.
func keyFlags(c *cobra.Command, k *credential.TPMKey) {
	deviceFlags(c, k)
	f := c.Flags()
	f.StringVar(&k.KeyFile, "key-file", "", "file to write the wrapped key to; only this TPM can use it")
	f.StringVar(&k.Handle, "handle", "", "handle to keep the key in the TPM under, such as 0x81010002")
	f.StringVar((*string)(&k.ParentPassword), "parent-password", "", "password of a parent with a handle, by reference")
	f.StringVar((*string)(&k.KeyPassword), "key-password", "", "password that the key gets, by reference")
	f.StringVar(&k.PCRs, "pcrs", "", "PCRs to bind the key to, such as sha256:0,7")
	f.StringVar(&k.PCRDigest, "pcr-digest", "", "SHA-256 of the values that the PCRs must have; default those of now")
}

// tpmNeeds reports flags that are missing.
func tpmNeeds(c *cobra.Command, t *credential.TPM, email bool) error {
	switch {
	case (t.KeyFile == "") == (t.Handle == ""):
		return &usageError{errors.New("give one of --key-file and --handle: where the key is to be"), c.CommandPath()}
	case email && t.Email == "":
		return &usageError{errors.New("give --email: the service account of the key"), c.CommandPath()}
	}
	return nil
}

func newTPMInit() *cobra.Command {
	var k credential.TPMKey
	var persist string
	var asJSON bool
	c := &cobra.Command{
		Use:   "init",
		Short: "Look at the TPM, make the parent key, and keep it if asked",
		Long: `Look at the TPM, and make the key that others are wrapped under. The TPM makes
the same one each time, so that need not be kept; --persist keeps it, which
spares slow TPMs the work.`,
		Example: `  gcemds tpm init
  gcemds tpm init --parent rsa-srk --persist 0x81000001 --owner-password file:/etc/gcemds/owner`,
		RunE: func(c *cobra.Command, _ []string) error {
			info, err := k.Look()
			if err != nil {
				return err
			}
			if persist != "" {
				if err := k.PersistParent(persist); err != nil {
					return err
				}
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), info)
			}
			w := c.OutOrStdout()
			fmt.Fprintf(w, "device    %s (%s)\n", info.Device, info.Manufacturer)
			fmt.Fprintf(w, "ek_name   %s\n", info.EKName)
			fmt.Fprintf(w, "parent    %s\n", info.ParentName)
			if persist != "" {
				fmt.Fprintf(w, "          kept; use it with parent: %s\n", persist)
			}
			_, err = fmt.Fprintf(w, "failures  %d of the %d wrong passwords that lock it\n", info.Failures, info.MaxFailures)
			return err
		},
	}
	deviceFlags(c, &k)
	c.Flags().StringVar(&persist, "persist", "", "handle to keep the parent under, such as 0x81000001")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func newTPMImport() *cobra.Command {
	var t credential.TPM
	var name string
	var asJSON bool
	c := &cobra.Command{
		Use:   "import SA.JSON",
		Short: "Put a downloaded service account key into the TPM",
		Long: `Put a downloaded service account key into the TPM, sign something with it as a
proof, and print the source to paste into the configuration. After that delete
the JSON file. Wrong passwords for the key do not lock the TPM.`,
		Example: `  gcemds tpm import sa.json --key-file robot.tss.pem
  gcemds tpm import sa.json --handle 0x81010002 --key-password file:/etc/gcemds/pin
  gcemds tpm import sa.json --key-file robot.tss.pem --pcrs sha256:0,7`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := tpmNeeds(c, &t, false); err != nil {
				return err
			}
			if err := t.Import(args[0]); err != nil {
				return err
			}
			if err := printSource(c.OutOrStdout(), name, &t, asJSON); err != nil {
				return err
			}
			_, err := fmt.Fprintf(c.ErrOrStderr(), `The key is in the TPM and signs.
  Paste the above into the configuration, and try it: gcemds tpm check --mint
  Then delete the file that has the key in the clear: shred -u %s
`, args[0])
			return err
		},
	}
	keyFlags(c, &t.TPMKey)
	c.Flags().StringVar(&name, "name", "robot", "name of the source")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func newTPMCert() *cobra.Command {
	var t credential.TPM
	var name, kind string
	var life time.Duration
	c := &cobra.Command{
		Use:   "cert",
		Short: "Make a key inside the TPM and print its certificate to upload",
		Long: `Make a key inside the TPM, if there is none yet, and print a certificate that it
has signed itself. Google takes it as a key of the service account, good as
long as the certificate. Run it again for a new certificate of the same key.`,
		Example: `  gcemds tpm cert --email robot@p.iam.gserviceaccount.com --key-file robot.tss.pem > robot.crt
  gcemds tpm cert --email robot@p.iam.gserviceaccount.com --handle 0x81010002 > robot.crt
  gcemds tpm cert --email workload.example --kind p256 --key-file tls.tss.pem > tls.crt`,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := tpmNeeds(c, &t, true); err != nil {
				return err
			}
			if life <= 0 {
				return &usageError{errors.New("--life must be above 0"), c.CommandPath()}
			}
			exists, err := t.Exists()
			if err != nil {
				return err
			}
			w := c.ErrOrStderr()
			if exists {
				fmt.Fprintln(w, "The key is there already; this is a certificate of it.")
			} else if err := t.Create(kind); err != nil {
				return err
			}
			certificate, err := t.Certificate(t.Email, life)
			if err != nil {
				return err
			}
			if _, err := c.OutOrStdout().Write(certificate); err != nil {
				return err
			}
			if kind != "rsa2048" {
				return nil
			}
			fmt.Fprintf(w, `Give Google the certificate, put the id that it answers into key_id, and paste:
  gcloud iam service-accounts keys upload robot.crt --iam-account %s

`, t.Email)
			return printSource(w, name, &t, false)
		},
	}
	keyFlags(c, &t.TPMKey)
	c.Flags().StringVar(&t.Email, "email", "", "service account, for the certificate and the source")
	c.Flags().StringVar(&kind, "kind", "rsa2048", "rsa2048, or p256 for TLS only: Google takes no EC keys for service accounts")
	c.Flags().DurationVar(&life, "life", 365*24*time.Hour, "how long the certificate, and so the key, is good")
	c.Flags().StringVar(&name, "name", "robot", "name of the source")
	return c
}

func newTPMCheck() *cobra.Command {
	var mint, asJSON bool
	c := &cobra.Command{
		Use:   "check [SOURCE]",
		Short: "Prove that a source with a TPM key works, step by step",
		Long: `Prove that the sources of a configuration whose key is in a TPM work: read the
public key, sign, verify, and with --mint get an access token from Google. A
wrong password is tried once.`,
		Example: `  gcemds tpm check --config gcemds.yaml
  gcemds tpm check robot --config gcemds.yaml --mint --json`,
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := resolve(c, nil)
			if err != nil {
				return err
			}
			names, err := tpmSources(cfg, args)
			if err != nil {
				return err
			}
			results := make([]checkedTPM, len(names))
			failed := false
			for i, name := range names {
				env := credential.Env{Endpoints: cfg.Endpoints, Check: true}
				results[i] = checkedTPM{name, cfg.Sources[name].TPM.Check(c.Context(), env, mint)}
				failed = failed || results[i].failed()
			}
			if err := printChecked(c.OutOrStdout(), results, asJSON); err != nil {
				return err
			}
			if failed {
				return errors.New("not every source works")
			}
			return nil
		},
	}
	settingFlags(c)
	c.Flags().BoolVar(&mint, "mint", false, "get an access token, too")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// tpmSources returns the names of the sources to check, in order.
func tpmSources(cfg *config.Config, args []string) ([]string, error) {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(cfg.Sources)) {
		if cfg.Sources[name].TPM != nil {
			names = append(names, name)
		}
	}
	switch {
	case len(names) == 0:
		return nil, errors.New("no source of this configuration has the field tpm; gcemds tpm import prints one to paste")
	case len(args) == 0:
		return names, nil
	case !slices.Contains(names, args[0]):
		return nil, fmt.Errorf("%q is not a source with a TPM; those are: %s", args[0], strings.Join(names, ", "))
	}
	return args, nil
}

// A checkedTPM is what check found out about one.
type checkedTPM struct {
	Source string                  `json:"source"`
	Steps  []credential.TPMFinding `json:"steps"`
}

func (c checkedTPM) failed() bool { return c.Steps[len(c.Steps)-1].Error != "" }

func printChecked(w io.Writer, all []checkedTPM, asJSON bool) error {
	if asJSON {
		return printJSON(w, all)
	}
	for _, c := range all {
		if _, err := fmt.Fprintln(w, c.Source); err != nil {
			return err
		}
		for _, s := range c.Steps {
			result, text := "ok", s.Detail
			if s.Error != "" {
				result, text = "FAILED", s.Error
			}
			line := fmt.Sprintf("  %-6s  %-13s  %s", result, s.Step, text)
			if _, err := fmt.Fprintln(w, strings.TrimRight(line, " ")); err != nil {
				return err
			}
		}
	}
	return nil
}

// printSource prints a source as the configuration has it.
func printSource(w io.Writer, name string, t *credential.TPM, asJSON bool) error {
	source := map[string]any{"sources": map[string]credential.Config{name: {TPM: t}}}
	text, err := yaml.Dump(source, yaml.WithIndent(2), yaml.WithLineWidth(-1))
	if err != nil {
		return err
	}
	if !asJSON {
		_, err = w.Write(text)
		return err
	}
	var plain any // with the names of the fields, which are those of YAML
	if err := yaml.Load(text, &plain); err != nil {
		return err
	}
	return printJSON(w, plain)
}
