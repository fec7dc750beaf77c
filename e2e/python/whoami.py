"""google-auth says who it finds that it is, as a line of JSON: whoami.py [AUDIENCE of an ID token]."""

import json
import sys

import google.auth
import google.auth.transport.requests
from google.auth.compute_engine import _metadata

request = google.auth.transport.requests.Request()
credentials, project = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
credentials.refresh(request)
me = {"project": project, "email": credentials.service_account_email, "token": credentials.token}
if len(sys.argv) > 1:
    # Debian's release has no more public way that asks the metadata server.
    me["idToken"] = _metadata.get(request, "instance/service-accounts/default/identity?audience=" + sys.argv[1])
print(json.dumps(me))
