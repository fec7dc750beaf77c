package token

import (
	"slices"
	"strings"
)

// Scopes returns the canonical form of a set of scopes: trimmed, without
// empty ones and repetitions, sorted bytewise. A list that is canonical
// already is returned as it is. The argument is never changed.
func Scopes(list ...string) []string {
	if canonical(list) {
		return list
	}
	set := make([]string, 0, len(list))
	for _, s := range list {
		if s = strings.TrimSpace(s); s != "" {
			set = append(set, s)
		}
	}
	slices.Sort(set)
	return slices.Compact(set)
}

func canonical(list []string) bool {
	previous := ""
	for _, s := range list {
		if s <= previous || len(strings.TrimSpace(s)) != len(s) {
			return false
		}
		previous = s
	}
	return true
}

// Uncovered returns the scopes of asked that an account holding the scopes of
// held may not have, in the order of asked; none if it may have them all. A
// scope covers itself and what it implies (credentials section 5.3). That
// decides only whether a request is allowed: the token is then minted with
// the scopes asked for.
func Uncovered(held, asked []string) []string {
	var missing []string
	for _, a := range asked {
		if !slices.ContainsFunc(held, func(h string) bool { return covers(spelledOut(h), spelledOut(a)) }) {
			missing = append(missing, a)
		}
	}
	return missing
}

const scopePrefix = "https://www.googleapis.com/auth/"

// spelledOut turns the two shorthands of OAuth into the scopes they mean.
func spelledOut(scope string) string {
	switch scope {
	case "email", "profile":
		return scopePrefix + "userinfo." + scope
	}
	return scope
}

func covers(held, asked string) bool {
	if held == asked {
		return true
	}
	h, google := strings.CutPrefix(held, scopePrefix)
	a, too := strings.CutPrefix(asked, scopePrefix)
	if !google || !too {
		return false
	}
	if h == "cloud-platform" {
		return slices.ContainsFunc(cloud, func(api string) bool { return a == api || strings.HasPrefix(a, api+".") })
	}
	return slices.ContainsFunc(implied[h], func(i string) bool { return covers(scopePrefix+i, asked) })
}

// implied are the scopes that come with another one, one step down.
var implied = map[string][]string{
	"bigquery":                {"bigquery.insertdata", "bigquery.readonly"},
	"compute":                 {"compute.readonly"},
	"devstorage.full_control": {"devstorage.read_write"},
	"devstorage.read_write":   {"devstorage.read_only"},
	"logging.admin":           {"logging.read", "logging.write"},
	"monitoring":              {"monitoring.read", "monitoring.write"},
	"source.full_control":     {"source.read_write"},
	"source.read_write":       {"source.read_only"},
}

// cloud are the APIs of Google Cloud: cloud-platform covers all their scopes
// and no others, such as those of Workspace, nor userinfo.
var cloud = []string{
	"appengine", "bigquery", "bigtable", "cloud-bigtable", "cloud-billing", "cloud-healthcare", "cloud-identity",
	"cloud-language", "cloud-platform", "cloud-translation", "cloud-vision", "cloud_debugger", "cloudiot", "cloudkms",
	"cloudplatformfolders", "cloudplatformorganizations", "cloudplatformprojects", "cloudruntimeconfig", "compute",
	"datastore", "devstorage", "dialogflow", "genomics", "iam", "logging", "monitoring", "ndev.clouddns",
	"ndev.cloudman", "pubsub", "service.management", "servicecontrol", "source", "spanner", "sqlservice", "taskqueue",
	"trace",
}
