"""google-auth with Google's hosts built in, behind the proxy of a fake Google."""

import os
import unittest

import google.auth.transport.requests
from google.auth import exceptions
from google.oauth2 import id_token, service_account

KEY = os.path.join(os.environ["GCEMDS_E2E_FILES"], "hard-sa.json")
AUDIENCE = "https://service.example.com"


class Google(unittest.TestCase):
    def setUp(self):
        self.request = google.auth.transport.requests.Request()

    def test_access_token(self):
        credentials = service_account.Credentials.from_service_account_file(
            KEY, scopes=["https://www.googleapis.com/auth/userinfo.email"])
        credentials.refresh(self.request)
        answer = self.request("https://oauth2.googleapis.com/tokeninfo?access_token=" + credentials.token)
        self.assertEqual(answer.status, 200, answer.data)
        self.assertIn(credentials.service_account_email, answer.data.decode())

    def test_id_token(self):
        credentials = service_account.IDTokenCredentials.from_service_account_file(KEY, target_audience=AUDIENCE)
        credentials.refresh(self.request)
        claims = id_token.verify_oauth2_token(credentials.token, self.request, AUDIENCE)
        self.assertEqual(claims["email"], credentials.service_account_email)

    def test_refused(self):
        credentials = service_account.Credentials.from_service_account_file(
            KEY, scopes=["https://www.googleapis.com/auth/cloud-platform"], subject="ann@example.com")
        with self.assertRaisesRegex(exceptions.RefreshError, "unauthorized_client"):
            credentials.refresh(self.request)


if __name__ == "__main__":
    unittest.main()
