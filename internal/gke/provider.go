package gke

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

const iamPrefix = "//iam.googleapis.com/"

// providerName is that of a provider of one's own, with the number of the
// project, never its id (section 1.3).
var providerName = regexp.MustCompile(`^projects/(\d+)/locations/global/workloadIdentityPools/([a-z0-9-]{4,32})/providers/([a-z0-9-]{4,32})$`)

// normal returns the provider with the name of its own as it is written in
// full: people copy it with the service in front, or with https.
func (p Provider) normal() Provider {
	p.WorkloadIdentity = strings.TrimPrefix(strings.TrimPrefix(p.WorkloadIdentity, "https:"), iamPrefix)
	return p
}

// Validate reports what is wrong with the provider itself.
func (p Provider) Validate() error {
	p = p.normal()
	set := 0
	for _, s := range []string{p.WorkloadIdentity, p.Membership, p.STSAudience} {
		if s != "" {
			set++
		}
	}
	switch {
	case set == 0:
		return errors.New("needs one of workload_identity, membership and sts_audience; gcemds gke setup prints how to make a provider")
	case set > 1:
		return errors.New("workload_identity, membership and sts_audience exclude each other; keep one")
	case p.WorkloadIdentity != "" && !providerName.MatchString(p.WorkloadIdentity):
		return fmt.Errorf("workload_identity is %.200q, not projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER, with the number of the project, and 4 to 32 of a-z, 0-9 and - for POOL and for PROVIDER", p.WorkloadIdentity)
	case p.Membership != "" && !strings.HasPrefix(p.Membership, "https://gkehub.googleapis.com/"):
		return fmt.Errorf("membership is %.200q, not the identity provider of a fleet membership, which begins with https://gkehub.googleapis.com/", p.Membership)
	case p.STSAudience != "" && p.Audience == "":
		return errors.New("sts_audience needs audience, that of the cluster's tokens")
	case p.Pool != "" && p.Membership == "":
		return errors.New("pool is for a membership")
	case strings.ContainsFunc(p.Audience+p.STSAudience+p.Pool, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("audiences have no spaces and no characters beyond ASCII")
	}
	return nil
}

// ClusterAudience is the audience of the cluster's tokens (section 1.3).
func (p Provider) ClusterAudience(projectID string) string {
	switch p = p.normal(); {
	case p.Audience != "":
		return p.Audience
	case p.Membership != "":
		return p.pool(projectID)
	}
	return iamPrefix + p.WorkloadIdentity
}

// ExchangeAudience is what the token exchange is told (section 1.3).
func (p Provider) ExchangeAudience(projectID string) string {
	switch p = p.normal(); {
	case p.STSAudience != "":
		return p.STSAudience
	case p.Membership != "":
		return "identitynamespace:" + p.pool(projectID) + ":" + p.Membership
	}
	return iamPrefix + p.WorkloadIdentity
}

func (p Provider) pool(projectID string) string { return cmp.Or(p.Pool, projectID+poolSuffix) }

const poolSuffix = ".svc.id.goog"

// ProjectNumber is that of the provider's project, "" if its name does not have it.
func (p Provider) ProjectNumber() string {
	if m := providerName.FindStringSubmatch(strings.TrimPrefix(p.ExchangeAudience(""), iamPrefix)); m != nil {
		return m[1]
	}
	return ""
}

// Principal is how IAM policies name a service account of the cluster
// (section 1.5), and "" where that is not known: a name that the provider maps
// in a way of its own cannot be told from here.
func (p Provider) Principal(projectID, projectNumber, namespace, name string) string {
	if m := providerName.FindStringSubmatch(strings.TrimPrefix(p.ExchangeAudience(projectID), iamPrefix)); m != nil {
		return "principal:" + iamPrefix + "projects/" + m[1] + "/locations/global/workloadIdentityPools/" + m[2] + "/subject/" + subject(namespace, name)
	}
	if p.Membership != "" && projectNumber != "" {
		return "principal:" + iamPrefix + "projects/" + projectNumber + "/locations/global/workloadIdentityPools/" + p.pool(projectID) + "/subject/ns/" + namespace + "/sa/" + name
	}
	return ""
}

// subject is that of the cluster's tokens.
func subject(namespace, name string) string {
	return "system:serviceaccount:" + namespace + ":" + name
}

// maxSubject is what google.subject can have, in bytes (section 1.4). Names
// can be longer.
const maxSubject = 127
