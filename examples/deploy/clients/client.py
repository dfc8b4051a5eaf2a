"""Calls an API of SAP Concur by way of `concur-auth serve --proxy`. Needs nothing but Python.

    python3 client.py /run/concur-auth/auth.sock
"""

import http.client
import json
import os
import socket
import sys


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=120)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def get(path):
    """The JSON of a reply; ends this program, with the reason, where there is none."""
    try:
        connection = UnixConnection(SOCKET)
        connection.request("GET", path)
        reply = connection.getresponse()
        body = reply.read()
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"{SOCKET}: {error}; is concur-auth serve running?")
    if reply.status == 200:
        return json.loads(body)
    try:
        error = json.loads(body)
    except ValueError:
        error = {}
    wait = reply.headers.get("Retry-After")
    print(error.get("message", f"HTTP {reply.status}"), f"(again in {wait} s)" if wait else "", file=sys.stderr)
    sys.exit(2 if error.get("person_needed") else 1)


SOCKET = (sys.argv[1:] or [os.environ.get("CONCUR_AUTH_SOCKET", "/run/concur-auth/auth.sock")])[0]

# The program attaches the token, and repeats the call once after a 401.
for user in get("/api/profile/identity/v4/Users")["Resources"]:
    print(user["userName"])

# A token of one's own, for a library that makes its own requests.
token = get("/token?min_validity=300")
print(f"a {token['token_type']} token for {token['geolocation']}, valid until {token['expires_at']}")
