package issuer

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"net/http"
)

// An accountKey is the key that the fake keeps for an account, as Google does
// for each: signBlob and signJwt sign with it. It is made at the first need.
type accountKey struct {
	made chan struct{} // closed when key or err is there
	key  *key
	err  error
}

// makeKey returns the key that is kept for an account of the directory, and
// makes it if there is none. The making outlives a caller that does not wait.
func (i *Issuer) makeKey(ctx context.Context, email string) (*key, error) {
	i.mu.Lock()
	k := i.managed[email]
	if k == nil {
		k = &accountKey{made: make(chan struct{})}
		i.managed[email] = k
		i.making.Go(func() {
			defer close(k.made)
			var private *rsa.PrivateKey
			if private, k.err = rsa.GenerateKey(rand.Reader, keyBits); k.err == nil {
				k.key, k.err = newKey(private)
			}
		})
	}
	i.mu.Unlock()
	select {
	case <-k.made:
		return k.key, k.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// madeKey returns the key that is kept for an account, or nil if none was
// made: then nothing is signed by it.
func (i *Issuer) madeKey(email string) *key {
	i.mu.Lock()
	k := i.managed[email]
	i.mu.Unlock()
	if k == nil {
		return nil
	}
	select {
	case <-k.made:
		return k.key
	default:
		return nil
	}
}

// accountKeys calls f with each public key of the account that the request
// names: first the one that is kept for it, then those that were registered.
func (i *Issuer) accountKeys(r *http.Request, f func(id string, public *rsa.PublicKey) error) error {
	name := r.PathValue("account")
	account := i.directory.Load().accounts[name]
	if account == nil {
		return apiError{status: http.StatusNotFound, code: "NOT_FOUND", message: "Not found; Gaia id not found for email " + name}
	}
	kept, err := i.makeKey(r.Context(), account.Email)
	if err != nil {
		return err
	}
	if err := f(kept.id, &kept.private.PublicKey); err != nil {
		return err
	}
	for _, k := range account.Keys {
		public, ok := k.Key.(*rsa.PublicKey)
		if !ok {
			continue
		}
		if k.ID == "" {
			if k.ID, err = keyID(public); err != nil {
				return err
			}
		}
		if err := f(k.ID, public); err != nil {
			return err
		}
	}
	return nil
}

// accountX509 is a map of key ids to certificates.
func (i *Issuer) accountX509(r *http.Request) (any, error) {
	signer, err := i.ready(r.Context())
	if err != nil {
		return nil, err
	}
	set := map[string]string{}
	err = i.accountKeys(r, func(id string, public *rsa.PublicKey) error {
		cert, err := certify(public, signer[0].private, r.PathValue("account"))
		set[id] = cert
		return err
	})
	return set, err
}

// accountJWK is a JWK set.
func (i *Issuer) accountJWK(r *http.Request) (any, error) {
	set := struct {
		Keys []jwk `json:"keys"`
	}{Keys: []jwk{}}
	err := i.accountKeys(r, func(id string, public *rsa.PublicKey) error {
		set.Keys = append(set.Keys, webKey(id, public))
		return nil
	})
	return set, err
}

// accountRaw is a list of numbers, in the form of the first years.
func (i *Issuer) accountRaw(r *http.Request) (any, error) {
	type value struct {
		KeyID     string `json:"keyid"`
		Algorithm string `json:"algorithm"`
		Modulus   string `json:"modulus"`
		Exponent  string `json:"exponent"`
	}
	set := struct {
		Values []value `json:"keyvalues"`
	}{Values: []value{}}
	err := i.accountKeys(r, func(id string, public *rsa.PublicKey) error {
		k := webKey(id, public)
		set.Values = append(set.Values, value{id, k.Kty, k.N, k.E})
		return nil
	})
	return set, err
}
