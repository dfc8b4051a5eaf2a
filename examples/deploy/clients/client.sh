#!/bin/sh
# Calls an API of SAP Concur by way of `concur-auth serve --proxy`. Needs nothing but curl.
#
#     sh client.sh /run/concur-auth/auth.sock
set -eu

socket=${1:-${CONCUR_AUTH_SOCKET:-/run/concur-auth/auth.sock}}

# Prints the body of a reply; ends this program, with the reason, where there is none.
get() {
  reply=$(curl --silent --show-error --max-time 120 --unix-socket "$socket" --write-out '\n%{http_code}' "http://localhost$1") || {
    echo "$socket: is concur-auth serve running?" >&2
    exit 1
  }
  status=$(printf '%s' "$reply" | tail -n 1)
  body=${reply%????}
  if [ "$status" != 200 ]; then
    printf '%s\n' "$body" >&2
    case $body in
      *'"person_needed":true'*) exit 2 ;;
      *) exit 1 ;;
    esac
  fi
  printf '%s\n' "$body"
}

# The program attaches the token, and repeats the call once after a 401.
users=$(get /api/profile/identity/v4/Users)
printf '%s\n' "$users" | grep -o '"userName":"[^"]*"' | cut -d '"' -f 4

# A token of one's own. Not on a command line, which all users of a machine can see: `curl -H @-` reads a header from its input.
token=$(get '/token?min_validity=300')
echo "a token, valid until $(printf '%s' "$token" | grep -o '"expires_at":"[^"]*"' | cut -d '"' -f 4)"
