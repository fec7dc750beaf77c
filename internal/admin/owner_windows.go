package admin

import "os"

// owned trusts the folder: on Windows temporary folders are the user's own.
func owned(os.FileInfo) bool { return true }
