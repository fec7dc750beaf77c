// Command gcemds gives any program the metadata and the Google identity it
// would have on Google Cloud. See gcemds --help.
package main

import (
	"os"

	"github.com/gcemds/gcemds/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdout, os.Stderr)) }
