package cli

import "os"

// passedOn are the signals that run outlives, so that its program can end by
// itself.
var passedOn = []os.Signal{os.Interrupt}

// sentByTerminal is always so: a console interrupts all its programs.
func sentByTerminal(os.Signal) bool { return true }

func signalOf(*os.ProcessState) (int, bool) { return 0, false }
