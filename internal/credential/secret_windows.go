package credential

// handedOver takes every handle: the number of one that we were started with is
// known to whoever started us, and not to be guessed.
func handedOver(uintptr) bool { return true }
