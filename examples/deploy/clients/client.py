#!/usr/bin/env python3
"""Calls an API of SAP Concur through `concur-auth serve --proxy`, and then by itself with a token. Needs no package.

    client.py [SOCKET]      default: $CONCUR_AUTH_SOCKET

Without a socket, over loopback: CONCUR_AUTH_URL=http://127.0.0.1:8099 CONCUR_AUTH_KEY_FILE=FILE client.py
Exit codes: 0 done, 2 a person must act, 1 any other error.
"""
import http.client
import json
import os
import socket
import sys
import urllib.parse

USERS = "profile/identity/v4/Users"
SOCKET = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("CONCUR_AUTH_SOCKET")


class UnixConnection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(SOCKET)


def get(url, bearer=None, over=None):
    """The status and the JSON of a reply. Follows no redirect, so that the token goes to no other host."""
    scheme, host, path = urllib.parse.urlsplit(url)[:3]
    over = over or (http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection)
    try:
        connection = over(host, timeout=90)
        connection.request("GET", path, headers={"Authorization": "Bearer " + bearer} if bearer else {})
        reply = connection.getresponse()
        status, body = reply.status, reply.read()
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"no answer from {SOCKET if over is UnixConnection else url}: {error}")
    try:
        content = json.loads(body)
    except ValueError:
        content = {}
    if status == 503 and "person_needed" in content:  # From concur-auth: there is no token now.
        needed = content["person_needed"]
        after = "a person must act" if needed else f"ask again in {reply.getheader('Retry-After')} s"
        print(f"no token: {content['message']}; {after}", file=sys.stderr)
        sys.exit(2 if needed else 1)
    if status != 200:
        sys.exit(f"{url} answered {status}: {body.decode(errors='replace')}")
    return content


def ask(path):
    if SOCKET:
        return get("http://localhost" + path, over=UnixConnection)
    with open(os.environ["CONCUR_AUTH_KEY_FILE"]) as file:
        return get(os.environ["CONCUR_AUTH_URL"] + path, bearer=file.read().strip())


def show(how, users):
    print(f"{how}: 200", *(f"{user['id']} {user['userName']}" for user in users["Resources"]), sep="\n  ")


show("through the proxy", ask("/api/" + USERS))
token = ask("/token")
show("with a token", get(token["geolocation"] + USERS, bearer=token["access_token"]))
