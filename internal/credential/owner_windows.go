package credential

import "os"

// giveTo does nothing: who may use a file, its folder says.
func giveTo(*os.File, os.FileInfo) error { return nil }
