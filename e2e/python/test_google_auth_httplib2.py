"""google-auth's transport for httplib2: a request that authorizes itself, to somebody who tells what it came with."""

import json
import os
import unittest

import google_auth_httplib2
import httplib2
from google.auth.compute_engine import Credentials

ISSUER = os.environ["GCEMDS_ISSUER"]


class AuthorizedHttp(unittest.TestCase):
    def test_the_request_has_a_token(self):
        http = google_auth_httplib2.AuthorizedHttp(Credentials(), http=httplib2.Http(timeout=30))
        response, body = http.request(ISSUER + "/tokeninfo", method="POST", body=b"")
        self.assertEqual(response.status, 200, body)
        self.assertEqual(json.loads(body)["scope"], "https://www.googleapis.com/auth/cloud-platform")


if __name__ == "__main__":
    unittest.main()
