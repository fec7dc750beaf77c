package client

import (
	"slices"
	"strings"
)

// canonical returns scopes trimmed, sorted and without repetitions.
func canonical(scopes []string) []string {
	list := strings.Fields(strings.Join(scopes, " "))
	slices.Sort(list)
	return slices.Compact(list)
}

// missing returns the scopes of asked that an account with the scopes of held
// certainly cannot have. The server has the last word, so what is not known is
// not missing. (A server decides with internal/token.Uncovered, which takes the
// other side: there, what is not known is not covered.)
func missing(held, asked []string) []string {
	var list []string
	for _, a := range asked {
		if !slices.ContainsFunc(held, func(h string) bool { return covers(h, a) }) {
			list = append(list, a)
		}
	}
	return list
}

const scopePrefix = "https://www.googleapis.com/auth/"

func covers(held, asked string) bool {
	if held == asked {
		return true
	}
	h, google := strings.CutPrefix(spellOut(held), scopePrefix)
	a, too := strings.CutPrefix(spellOut(asked), scopePrefix)
	switch {
	case !google || !too:
		return false
	case h == "cloud-platform":
		api, _, _ := strings.Cut(a, ".")
		return !slices.Contains(notCloud, api)
	}
	return a == h || strings.HasPrefix(a, h+".") || slices.Contains(implied[h], a)
}

// spellOut turns the two shorthands of OAuth into the scopes they mean.
func spellOut(scope string) string {
	switch scope {
	case "email", "profile":
		return scopePrefix + "userinfo." + scope
	}
	return scope
}

// implied are the scopes that come with another one, other than those that have
// its name and a suffix: compute.readonly comes with compute.
var implied = map[string][]string{
	"devstorage.full_control": {"devstorage.read_write", "devstorage.read_only"},
	"devstorage.read_write":   {"devstorage.read_only"},
	"logging.admin":           {"logging.read", "logging.write"},
	"source.full_control":     {"source.read_write", "source.read_only"},
	"source.read_write":       {"source.read_only"},
}

// notCloud are APIs outside of Google Cloud, up to the first dot of their
// scopes: cloud-platform covers none of them.
var notCloud = []string{
	"activity", "admin", "adsense", "adwords", "analytics", "androidenterprise", "androidmanagement",
	"androidpublisher", "apps", "blogger", "books", "calendar", "chat", "classroom", "contacts", "content", "directory",
	"documents", "doubleclickbidmanager", "doubleclicksearch", "drive", "ediscovery", "fitness", "forms", "games",
	"gerritcodereview", "gmail", "groups", "indexing", "keep", "meetings", "photoslibrary", "plus", "presentations",
	"script", "siteverification", "spreadsheets", "streetviewpublish", "tagmanager", "tasks", "user", "userinfo",
	"webmasters", "youtube", "youtubepartner", "yt-analytics",
}
