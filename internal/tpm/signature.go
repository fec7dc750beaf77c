package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

var hashes = map[crypto.Hash]tpm2.TPMIAlgHash{
	crypto.SHA256: tpm2.TPMAlgSHA256, crypto.SHA384: tpm2.TPMAlgSHA384, crypto.SHA512: tpm2.TPMAlgSHA512,
}

// schemeFor returns the scheme that a signature with these options has, if the
// key can make it. Most keys have a scheme of their own.
func schemeFor(p *tpm2.TPMTPublic, opts crypto.SignerOpts) (tpm2.TPMTSigScheme, error) {
	var none tpm2.TPMTSigScheme
	hash, ok := hashes[opts.HashFunc()]
	if !ok {
		return none, fmt.Errorf("a TPM makes no signatures with %v", opts.HashFunc())
	}
	want := tpm2.TPMAlgECDSA
	if p.Type == tpm2.TPMAlgRSA {
		want = tpm2.TPMAlgRSASSA
		if _, pss := opts.(*rsa.PSSOptions); pss {
			want = tpm2.TPMAlgRSAPSS
		}
	}
	fixed, fixedHash, err := schemeOf(p)
	if err != nil {
		return none, err
	}
	if fixed != tpm2.TPMAlgNull && (fixed != want || fixedHash != hash) {
		return none, fmt.Errorf("the key is fixed to another signature scheme than %s with %v; TLS needs an RSA key with scheme null, or an EC key", schemeNames[want], opts.HashFunc())
	}
	return tpm2.TPMTSigScheme{Scheme: want, Details: tpm2.NewTPMUSigScheme(want, &tpm2.TPMSSchemeHash{HashAlg: hash})}, nil
}

var schemeNames = map[tpm2.TPMAlgID]string{tpm2.TPMAlgRSASSA: "PKCS #1 v1.5", tpm2.TPMAlgRSAPSS: "PSS", tpm2.TPMAlgECDSA: "ECDSA"}

// schemeOf returns the scheme to which a key is fixed, or TPMAlgNull.
func schemeOf(p *tpm2.TPMTPublic) (scheme tpm2.TPMAlgID, hash tpm2.TPMIAlgHash, err error) {
	if p.Type == tpm2.TPMAlgRSA {
		d, err := p.Parameters.RSADetail()
		if err != nil {
			return 0, 0, err
		}
		switch d.Scheme.Scheme {
		case tpm2.TPMAlgRSASSA:
			s, err := d.Scheme.Details.RSASSA()
			if err != nil {
				return 0, 0, err
			}
			return d.Scheme.Scheme, s.HashAlg, nil
		case tpm2.TPMAlgRSAPSS:
			s, err := d.Scheme.Details.RSAPSS()
			if err != nil {
				return 0, 0, err
			}
			return d.Scheme.Scheme, s.HashAlg, nil
		}
		return tpm2.TPMAlgNull, 0, nil
	}
	d, err := p.Parameters.ECCDetail()
	if err != nil {
		return 0, 0, err
	}
	if d.Scheme.Scheme != tpm2.TPMAlgECDSA {
		return tpm2.TPMAlgNull, 0, nil
	}
	s, err := d.Scheme.Details.ECDSA()
	if err != nil {
		return 0, 0, err
	}
	return d.Scheme.Scheme, s.HashAlg, nil
}

// encode returns a signature in the form that package crypto has.
func encode(s *tpm2.TPMTSignature) ([]byte, error) {
	switch s.SigAlg {
	case tpm2.TPMAlgRSASSA:
		r, err := s.Signature.RSASSA()
		if err != nil {
			return nil, err
		}
		return r.Sig.Buffer, nil
	case tpm2.TPMAlgRSAPSS:
		r, err := s.Signature.RSAPSS()
		if err != nil {
			return nil, err
		}
		return r.Sig.Buffer, nil
	case tpm2.TPMAlgECDSA:
		e, err := s.Signature.ECDSA()
		if err != nil {
			return nil, err
		}
		return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(e.SignatureR.Buffer), new(big.Int).SetBytes(e.SignatureS.Buffer)})
	}
	return nil, fmt.Errorf("the TPM made a signature of the unknown kind 0x%x", uint16(s.SigAlg))
}

// verify checks a signature before anybody uses it: that turns every mix-up of
// keys into a clear message.
func verify(public crypto.PublicKey, digest, signature []byte, opts crypto.SignerOpts) error {
	good := false
	switch key := public.(type) {
	case *rsa.PublicKey:
		if pss, ok := opts.(*rsa.PSSOptions); ok {
			good = rsa.VerifyPSS(key, opts.HashFunc(), digest, signature, pss) == nil
		} else {
			good = rsa.VerifyPKCS1v15(key, opts.HashFunc(), digest, signature) == nil
		}
	case *ecdsa.PublicKey:
		good = ecdsa.VerifyASN1(key, digest, signature)
	}
	if !good {
		return errors.New("the public key does not accept it; is the file of another key?")
	}
	return nil
}
