package issuer

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A Directory is what the fake Google knows. Who and what is not in it is
// refused, so the zero value refuses everything. It must not be changed once
// an Issuer has it.
type Directory struct {
	Accounts  []Account
	Users     []User
	Providers []Provider
}

// An Account is a service account, or one of Google Distributed Cloud.
type Account struct {
	// Email, or system:serviceaccount:PROJECT:NAME.
	Email string

	// Keys verify the assertions of the account. None: it is there to be
	// impersonated.
	Keys []PublicKey

	// Grants are the IAM policy of the account: members by role. Roles are
	// those of which the fake knows what they permit (see Roles); a member is
	// serviceAccount:EMAIL, user:EMAIL, a principal:// or a principalSet://
	// that ends with /*.
	Grants map[string][]string

	// LongLived allows access tokens of up to 12 hours, as the organisation
	// policy allowServiceAccountCredentialLifetimeExtension does. Otherwise
	// an hour is the most.
	LongLived bool

	// DomainWide lets assertions of the account speak for these people. Nil:
	// for nobody.
	DomainWide *DomainWide
}

// A DomainWide is what an administrator of Google Workspace delegates.
type DomainWide struct {
	Subjects []string // e-mails, or @DOMAIN for all of it
	Scopes   []string // that may be asked for
}

// A User is a person who has logged in: what a credentials file holds of it.
// With Email it is one of gcloud's (authorized_user), which the token
// endpoint serves; with Principal one of a workforce pool, which the
// Security Token Service serves.
type User struct {
	Email     string
	Principal string // principal://iam.googleapis.com/locations/global/workforcePools/POOL/subject/SUBJECT

	ClientID, ClientSecret, RefreshToken string

	// Scopes of the login. Default: cloud-platform, openid, userinfo.email.
	Scopes []string

	// Rotate gives a new refresh token with each answer; the old one is good
	// no more.
	Rotate bool
}

// A Provider is an identity provider of a workload or workforce identity
// pool. Which kinds of subject tokens it takes depends on what is set.
type Provider struct {
	// Audience under which the Security Token Service knows it:
	// //iam.googleapis.com/projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER,
	// the same of a workforce pool, or identitynamespace:POOL:PROVIDER.
	Audience string

	// Issuer and Keys of OIDC tokens (types jwt and id_token). Keys are given
	// as an uploaded JWK set is: the fake fetches nothing.
	Issuer string
	Keys   []PublicKey

	// Audiences that an OIDC token may have. Default: Audience, with or
	// without https: in front; for an identitynamespace, the pool.
	Audiences []string

	// Subjects is the attribute condition: only these are let in. Default: all.
	Subjects []string

	// AWS are the access keys whose owners are let in (type aws4_request).
	AWS []AWSKey

	// SAML are assertions in base64 and whose they are (type saml2). They are
	// compared as a whole, since nothing here can verify the signature in one.
	SAML map[string]string

	// Roots sign the certificates that are let in (type mtls), by their
	// common name. Nil: none.
	Roots *x509.CertPool

	// ClientID and ClientSecret, if set, must come with each exchange.
	ClientID, ClientSecret string
}

// An AWSKey is an access key of Amazon Web Services, and whose it is.
type AWSKey struct {
	ID, Secret string
	Token      string // of a session; empty: the key needs none
	ARN        string // becomes the subject
}

// Roles are the roles of which the fake knows what they permit on a service
// account.
var Roles = map[string][]string{
	"roles/iam.serviceAccountTokenCreator": {
		"iam.serviceAccounts.getAccessToken", "iam.serviceAccounts.getOpenIdToken", "iam.serviceAccounts.implicitDelegation",
		"iam.serviceAccounts.signBlob", "iam.serviceAccounts.signJwt",
	},
	"roles/iam.workloadIdentityUser":             {"iam.serviceAccounts.getAccessToken", "iam.serviceAccounts.getOpenIdToken"},
	"roles/iam.serviceAccountOpenIdTokenCreator": {"iam.serviceAccounts.getOpenIdToken"},
}

// An index is a Directory that was checked, by what requests name.
type index struct {
	accounts  map[string]*Account // by e-mail and by unique id
	providers map[string]*Provider
	users     []User
}

// SetDirectory replaces all that the fake knows. Tokens and keys that it made
// stay good; refresh tokens that were rotated are again those of d. It may be
// called while the fake is in use, and changes nothing if d is wrong.
func (i *Issuer) SetDirectory(d Directory) error {
	x := &index{accounts: map[string]*Account{}, providers: map[string]*Provider{}, users: slices.Clone(d.Users)}
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	for _, a := range d.Accounts {
		switch {
		case a.Email == "":
			fault("an account has no e-mail")
		case x.accounts[a.Email] != nil:
			fault("account %s is there twice", a.Email)
		}
		for role := range a.Grants {
			if Roles[role] == nil {
				fault("account %s: role %q is not one of %s", a.Email, role, strings.Join(slices.Sorted(maps.Keys(Roles)), ", "))
			}
		}
		for _, k := range a.Keys {
			if err := k.check(); err != nil {
				fault("account %s: %w", a.Email, err)
			}
		}
		x.accounts[a.Email], x.accounts[UniqueID(a.Email)] = &a, &a
	}
	for n, u := range d.Users {
		switch {
		case u.ClientID == "" || u.ClientSecret == "" || u.RefreshToken == "":
			fault("user %d needs a client id, a client secret and a refresh token", n+1)
		case (u.Email == "") == (u.Principal == ""):
			fault("user %d needs either an e-mail or a principal", n+1)
		}
		if len(u.Scopes) == 0 {
			x.users[n].Scopes = []string{scopeCloud, "openid", scopeEmail}
		}
	}
	for _, p := range d.Providers {
		switch {
		case !isTarget(p.Audience):
			fault("provider %q: an audience begins with //iam.googleapis.com/ or identitynamespace:", p.Audience)
		case x.providers[p.Audience] != nil:
			fault("provider %s is there twice", p.Audience)
		case (p.Issuer == "") != (len(p.Keys) == 0):
			fault("provider %s: an issuer needs keys, and keys need an issuer", p.Audience)
		}
		for _, k := range p.Keys {
			if err := k.check(); err != nil {
				fault("provider %s: %w", p.Audience, err)
			}
		}
		for _, k := range p.AWS {
			if k.ID == "" || len(k.Secret) < minAWSSecret || k.ARN == "" {
				fault("provider %s: an AWS key needs an id, a secret of at least %d characters and an ARN", p.Audience, minAWSSecret)
			}
		}
		x.providers[p.Audience] = &p
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	i.directory.Store(x)
	return nil
}

// minAWSSecret is far from the 40 characters that Amazon's have; shorter HMAC
// keys are not allowed in FIPS mode.
const minAWSSecret = 16

const (
	scopeCloud = "https://www.googleapis.com/auth/cloud-platform"
	scopeEmail = "https://www.googleapis.com/auth/userinfo.email"
	scopeIAM   = "https://www.googleapis.com/auth/iam"
)

// permits reports whether the policy of the account lets a member do that.
func (a *Account) permits(member, permission string) bool {
	for role, members := range a.Grants {
		if slices.Contains(Roles[role], permission) && slices.ContainsFunc(members, func(m string) bool { return covers(m, member) }) {
			return true
		}
	}
	return false
}

// covers reports whether what a policy names is, or contains, the member.
func covers(named, member string) bool {
	if set, ok := strings.CutPrefix(named, "principalSet://"); ok {
		pool, all := strings.CutSuffix(set, "/*")
		return all && strings.HasPrefix(member, "principal://"+pool+"/subject/")
	}
	return named == member
}

// maxLife is the longest life of an access token of the account.
func (a *Account) maxLife() time.Duration {
	if a.LongLived {
		return 12 * time.Hour
	}
	return time.Hour
}

func (d *DomainWide) speaksFor(subject string) bool {
	return d != nil && slices.ContainsFunc(d.Subjects, func(s string) bool {
		return s == subject || strings.HasPrefix(s, "@") && strings.HasSuffix(subject, s)
	})
}

// same compares secrets in a time that tells nothing about them.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}
