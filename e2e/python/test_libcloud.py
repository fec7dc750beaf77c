"""Apache Libcloud, which asks the host called metadata and no other."""

import json
import os
import unittest
import urllib.request

from libcloud.common import google

ISSUER = os.environ["GCEMDS_ISSUER"]


class Token(unittest.TestCase):
    def test_the_instance_is_recognised(self):
        self.assertEqual(google.GoogleAuthType.guess_type("somebody"), "GCE")

    def test_token(self):
        token = google.GoogleGCEServiceAcctAuthConnection("somebody", None).get_new_token()
        self.assertEqual(token["token_type"], "Bearer")
        with urllib.request.urlopen(ISSUER + "/tokeninfo?access_token=" + token["access_token"]) as answer:
            self.assertEqual(json.load(answer)["scope"], "https://www.googleapis.com/auth/cloud-platform")


if __name__ == "__main__":
    unittest.main()
