// Command gcemds-pkcs11 signs with a key in a PKCS#11 token, such as an HSM or a smart card, for whoever is at the other
// end of its standard input and output: gcemds, for a source of the kind pkcs11. It speaks the signer protocol
// (docs/reference/signer-protocol.md) and knows nothing of tokens, accounts or Google.
//
// It is a program of its own because the module of a token is foreign code, which may crash, and because loading one
// takes cgo. gcemds starts it again when it dies. It is a module of its own so that gcemds builds without either.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

const usage = `gcemds-pkcs11 signs with a key in a PKCS#11 token. It answers the questions of the
signer protocol on its standard input, one line each, until that ends.

Usage:
  gcemds-pkcs11 [--module PATH] [--pin REFERENCE] URI

The URI says which key it is (RFC 7512): token, serial, manufacturer, model and
slot-id choose the token, object and id the key. They must fit exactly one.

  --module PATH     library of the token; default module-path in the URI
  --pin REFERENCE   PIN of the user, which is tried once:
                      file:PATH   in a file that only its owner can use
                      env:NAME    in a variable of the environment
                      stdin       in the first line of the standard input
                    without one there is no login

Examples:
  # A key of SoftHSM, as a source of gcemds: see docs/reference/sources/pkcs11.md
  # The same by hand: ask for the public key
  echo '{"v":1,"op":"public"}' |
    gcemds-pkcs11 --module /usr/lib/softhsm/libsofthsm2.so --pin file:/etc/gcemds/pin \
      'pkcs11:token=mds;object=robot'

  # Two keys of the same label: say the id too
  gcemds-pkcs11 --pin env:PIN 'pkcs11:token=mds;object=robot;id=%01?module-path=/usr/lib/libpkcs11.so'
`

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "gcemds-pkcs11:", err)
		os.Exit(1)
	}
}

func run(args []string, stdin io.Reader, stdout io.Writer) error {
	flags := flag.NewFlagSet("gcemds-pkcs11", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	module := flags.String("module", "", "")
	reference := flags.String("pin", "", "")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		_, err := io.WriteString(stdout, usage)
		return err
	case err != nil:
		return fmt.Errorf("%w (see gcemds-pkcs11 --help)", err)
	case flags.NArg() != 1:
		return errors.New("one URI is needed: which key it is (see gcemds-pkcs11 --help)")
	}
	u, err := parseURI(flags.Arg(0))
	if err != nil {
		return err
	}
	if *module != "" {
		u.module = *module
	}
	if u.module == "" {
		return errors.New("--module is missing: the library of the token")
	}
	in := bufio.NewReaderSize(stdin, maxLine)
	pin, err := readPIN(*reference, in)
	if err != nil {
		return err
	}
	return serve(in, stdout, &lazyKey{open: func() (signer, error) { return openKey(u, pin) }})
}
