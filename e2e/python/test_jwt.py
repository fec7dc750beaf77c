"""PyJWT, which takes the keys of our issuer for Google's."""

import json
import os
import unittest

import google.auth.transport.requests
import jwt
from google.auth.compute_engine import _metadata

with open(os.environ["GCEMDS_DOCUMENT"]) as f:
    DOCUMENT = json.load(f)
KEYS = jwt.PyJWKClient(os.environ["GCEMDS_ISSUER"] + "/oauth2/v3/certs")
AUDIENCE = "https://service.example.com"


def identity(query):
    request = google.auth.transport.requests.Request()
    return _metadata.get(request, "instance/service-accounts/default/identity?audience=" + AUDIENCE + query)


def verify(token, audience):
    key = KEYS.get_signing_key_from_jwt(token).key
    return jwt.decode(token, key, algorithms=["RS256"], audience=audience, issuer="https://accounts.google.com")


class IDToken(unittest.TestCase):
    def test_standard(self):
        claims = verify(identity(""), AUDIENCE)
        self.assertEqual(claims["sub"], claims["azp"])
        self.assertEqual(claims["exp"] - claims["iat"], 3600)
        self.assertNotIn("google", claims)

    def test_full_with_licences(self):
        claims = verify(identity("&format=full&licenses=TRUE"), AUDIENCE)
        self.assertEqual(claims["email"], DOCUMENT["instance"]["serviceAccounts"]["default"]["email"])
        vm = claims["google"]["compute_engine"]
        self.assertEqual(vm["instance_id"], str(DOCUMENT["instance"]["id"]))
        self.assertEqual(vm["license_id"], [str(x["id"]) for x in DOCUMENT["instance"]["licenses"]])

    def test_another_audience(self):
        with self.assertRaises(jwt.InvalidAudienceError):
            verify(identity(""), "other")

    def test_another_signature(self):
        token, other = identity(""), identity("&format=full")
        with self.assertRaises(jwt.InvalidSignatureError):
            verify(token.rpartition(".")[0] + "." + other.rpartition(".")[2], AUDIENCE)


if __name__ == "__main__":
    unittest.main()
