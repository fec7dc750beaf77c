package credential

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gcemds/gcemds/internal/token"
)

const scopePrefix = "https://www.googleapis.com/auth/"

// aliases are the short names of gcloud --scopes, and cloudsql, which only
// its predecessor had (section 5.1). The prefix is left out.
var aliases = map[string][]string{
	"bigquery":              {"bigquery"},
	"cloud-platform":        {"cloud-platform"},
	"cloud-source-repos":    {"source.full_control"},
	"cloud-source-repos-ro": {"source.read_only"},
	"cloudsql":              {"sqlservice"},
	"compute-ro":            {"compute.readonly"},
	"compute-rw":            {"compute"},
	"datastore":             {"datastore"},
	"default":               {"devstorage.read_only", "logging.write", "monitoring.write", "pubsub", "service.management.readonly", "servicecontrol", "trace.append"},
	"gke-default":           {"devstorage.read_only", "logging.write", "monitoring", "service.management.readonly", "servicecontrol", "trace.append"},
	"logging-write":         {"logging.write"},
	"monitoring":            {"monitoring"},
	"monitoring-read":       {"monitoring.read"},
	"monitoring-write":      {"monitoring.write"},
	"pubsub":                {"pubsub"},
	"service-control":       {"servicecontrol"},
	"service-management":    {"service.management.readonly"},
	"sql":                   {"sqlservice"},
	"sql-admin":             {"sqlservice.admin"},
	"storage-full":          {"devstorage.full_control"},
	"storage-ro":            {"devstorage.read_only"},
	"storage-rw":            {"devstorage.read_write"},
	"taskqueue":             {"taskqueue"},
	"trace":                 {"trace.append"},
	"userinfo-email":        {"userinfo.email"},
}

// shorthands are scopes that are no address. They stay as they are given.
var shorthands = []string{"email", "openid", "profile"}

// ExpandScopes turns a list of scopes as people write them – aliases, full
// addresses, openid, email, profile – into the canonical set that goes over
// the wire. The error names every entry that is none of these.
func ExpandScopes(list []string) ([]string, error) {
	var scopes []string
	var unknown []string
	for _, entry := range list {
		entry = strings.TrimSpace(entry)
		expansion, alias := aliases[entry]
		switch {
		case entry == "":
		case alias:
			for _, s := range expansion {
				scopes = append(scopes, scopePrefix+s)
			}
		case slices.Contains(shorthands, entry), isScopeURL(entry):
			scopes = append(scopes, entry)
		default:
			unknown = append(unknown, describeUnknown(entry))
		}
	}
	if len(unknown) > 0 {
		return nil, fmt.Errorf("unknown scope %s; use an alias of gcloud --scopes or a full address (%s…)", strings.Join(unknown, ", "), scopePrefix)
	}
	return token.Scopes(scopes...), nil
}

// isScopeURL accepts what can be part of a list: commas and spaces separate
// scopes on the wire.
func isScopeURL(s string) bool {
	rest, ok := strings.CutPrefix(s, "https://")
	if !ok {
		rest, ok = strings.CutPrefix(s, "http://")
	}
	return ok && rest != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`,"\`, r) })
}

func describeUnknown(entry string) string {
	if nearest := nearestAlias(entry); nearest != "" {
		return fmt.Sprintf("%.80q (did you mean %q?)", entry, nearest)
	}
	return fmt.Sprintf("%.80q", entry)
}

// nearestAlias returns the name that was probably meant, or "". What is a
// scope without its prefix is known too.
func nearestAlias(entry string) string {
	const longest = 40 // no name is half as long
	if len(entry) > longest {
		return ""
	}
	entry = strings.ToLower(entry)
	best, distance := "", (len(entry)+2)/3+1
	for _, name := range append(slices.Sorted(maps.Keys(aliases)), shorthands...) {
		if scopes := aliases[name]; len(scopes) == 1 && scopes[0] == entry {
			return name
		}
		if d := editDistance(entry, name); d < distance {
			best, distance = name, d
		}
	}
	return best
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
