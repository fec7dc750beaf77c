package gcemds

// Environ returns the variables that lead Google's client libraries of all
// languages, and gcloud, to the metadata server at addr (of the form of
// [Server.Addr]) and away from other credentials. A variable whose value is
// "" must not be set at all. With addr "" they look where Google has its
// server: at 169.254.169.254.
//
// The directory empty is what gcloud and most libraries then take for the
// folder of gcloud, so there must be nothing in it. Those of Go and of Node
// find the one in the home directory (on Windows in APPDATA) all the same.
func Environ(addr, empty string) map[string]string {
	return map[string]string{
		"GCE_METADATA_HOST":      addr,
		"GCE_METADATA_IP":        addr, // Python's and Node's
		"GCE_METADATA_ROOT":      addr, // gcloud's and that of old releases of Python's
		"METADATA_EMULATOR_HOST": addr, // Google.Cloud.Metadata.V1 of .NET

		"METADATA_SERVER_DETECTION":       "assume-present", // Node's
		"NO_GCE_CHECK":                    "",               // "true" would mean that there is no server
		"GCE_METADATA_MTLS_MODE":          "none",           // Python's would use the certificate of a real machine
		"EXPERIMENTAL_GOOGLE_API_USE_S2A": "",

		"GOOGLE_APPLICATION_CREDENTIALS":            "",
		"CLOUDSDK_CONFIG":                           empty,
		"CLOUDSDK_AUTH_ACCESS_TOKEN_FILE":           "",
		"CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE":    "",
		"CLOUDSDK_AUTH_IMPERSONATE_SERVICE_ACCOUNT": "",
		"CLOUDSDK_CORE_ACCOUNT":                     "",
	}
}
