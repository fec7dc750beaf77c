"""google-auth, against the server that the environment names, or the one at 169.254.169.254."""

import datetime
import json
import os
import subprocess
import unittest

import google.auth
import google.auth.transport.requests
import google.auth.transport.urllib3
import urllib3
from google.auth import exceptions
from google.auth.compute_engine import Credentials, _metadata
from google.oauth2 import id_token

with open(os.environ["GCEMDS_DOCUMENT"]) as f:
    DOCUMENT = json.load(f)
ISSUER = os.environ["GCEMDS_ISSUER"]
EMAIL = DOCUMENT["instance"]["serviceAccounts"]["default"]["email"]
AUDIENCE = "https://service.example.com"


class Requests(unittest.TestCase):
    def setUp(self):
        self.request = google.auth.transport.requests.Request()

    def know(self, token):
        """Ask the issuer what the access token is, and compare with the ID token."""
        answer = self.request(ISSUER + "/tokeninfo?access_token=" + token)
        self.assertEqual(answer.status, 200, answer.data)
        info = json.loads(answer.data.decode())
        self.assertEqual(info["scope"], "https://www.googleapis.com/auth/cloud-platform")
        self.assertEqual(info["azp"], self.identity()["sub"])

    def identity(self):
        token = _metadata.get(
            self.request, "instance/service-accounts/default/identity?format=full&audience=" + AUDIENCE)
        return id_token.verify_token(token, self.request, audience=AUDIENCE, certs_url=ISSUER + "/oauth2/v1/certs")

    def test_the_server_is_detected(self):
        self.assertTrue(_metadata.ping(self.request))

    def test_default_credentials_are_those_of_the_instance(self):
        credentials, project = google.auth.default()
        self.assertIsInstance(credentials, Credentials)
        self.assertEqual(project, DOCUMENT["project"]["projectId"])
        credentials.refresh(self.request)
        self.assertEqual(credentials.service_account_email, EMAIL)
        self.know(credentials.token)

    def test_refresh(self):
        for account in "default", EMAIL:
            with self.subTest(account):
                credentials = Credentials(account)
                credentials.refresh(self.request)
                self.assertTrue(credentials.valid)
                self.assertGreater(credentials.expiry, datetime.datetime.utcnow() + datetime.timedelta(seconds=225))
                self.assertTrue(credentials.has_scopes(["https://www.googleapis.com/auth/cloud-platform"]))
                self.know(credentials.token)

    def test_the_credentials_authorize_a_request(self):
        headers = {}
        Credentials().before_request(self.request, "GET", "https://example.com", headers)
        scheme, token = headers["authorization"].split()
        self.assertEqual(scheme, "Bearer")
        self.know(token)

    def test_an_account_that_is_not_there(self):
        with self.assertRaisesRegex(exceptions.RefreshError, "404"):
            Credentials("nobody@example.com").refresh(self.request)

    def test_types_follow_the_content_type(self):
        self.assertEqual(_metadata.get_project_id(self.request), DOCUMENT["project"]["projectId"])
        self.assertEqual(_metadata.get(self.request, "instance/id"), str(DOCUMENT["instance"]["id"]))
        self.assertEqual(_metadata.get(self.request, "instance/tags"), DOCUMENT["instance"]["tags"])
        self.assertEqual(_metadata.get(self.request, "project/", recursive=True), DOCUMENT["project"])
        info = _metadata.get_service_account_info(self.request)
        self.assertEqual(info, DOCUMENT["instance"]["serviceAccounts"]["default"])

    def test_a_change_is_seen(self):
        subprocess.run([os.environ["GCEMDS"], "set", "instance/attributes/python", "one"], check=True, timeout=30)
        self.assertEqual(_metadata.get(self.request, "instance/attributes/python"), "one")

    def test_id_token(self):
        # compute_engine.IDTokenCredentials of this release asks Google to sign, not the metadata server.
        claims = self.identity()
        self.assertEqual(claims["iss"], "https://accounts.google.com")
        self.assertEqual(claims["email"], EMAIL)
        self.assertEqual(claims["google"]["compute_engine"]["instance_name"], DOCUMENT["instance"]["name"])

    def test_id_token_for_another_audience(self):
        token = _metadata.get(self.request, "instance/service-accounts/default/identity?audience=" + AUDIENCE)
        with self.assertRaisesRegex(ValueError, "audience"):
            id_token.verify_token(token, self.request, audience="other", certs_url=ISSUER + "/oauth2/v1/certs")


class Urllib3(Requests):
    """The same through the other transport."""

    def setUp(self):
        self.request = google.auth.transport.urllib3.Request(urllib3.PoolManager())


if __name__ == "__main__":
    unittest.main()
