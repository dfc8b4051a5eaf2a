#!/bin/sh
# Calls an API of SAP Concur through `concur-auth serve --proxy`, and then by itself with a token. Needs curl.
#
#     client.sh [SOCKET]      default: $CONCUR_AUTH_SOCKET
#
# Without a socket, over loopback: CONCUR_AUTH_URL=http://127.0.0.1:8099 CONCUR_AUTH_KEY_FILE=FILE client.sh
# Exit codes: 0 done, 2 a person must act, 1 any other error.
set -eu
users=profile/identity/v4/Users
socket=${1:-${CONCUR_AUTH_SOCKET:-}}

fail() {
  printf '%s\n' "$2" >&2
  exit "$1"
}

# The header goes through standard input, because other users can see the arguments of a process.
get() { # URL HEADER PLACE [OPTION OF CURL...]: sets status and body
  url=$1 header=$2 place=$3
  shift 3
  reply=$(printf '%s\n' "$header" |
    curl --silent --show-error --include --max-time 90 -H @- "$@" "$url" | tr -d '\r')
  [ -n "$reply" ] || fail 1 "no answer from $place"
  status=$(printf '%s\n' "$reply" | sed -n '1s/^[^ ]* \([0-9]*\).*/\1/p')
  body=$(printf '%s\n' "$reply" | sed '1,/^$/d')
  case $status,$body in
  200,*) ;;
  503,*'"person_needed":true'*) fail 2 "no token: $(member message); a person must act" ;;
  503,*'"person_needed":false'*)
    after=$(printf '%s\n' "$reply" | sed -n 's/^[Rr]etry-[Aa]fter: //p')
    fail 1 "no token: $(member message); ask again in $after s" ;;
  *) fail 1 "$url answered $status: $body" ;;
  esac
}

# A text in the JSON of the reply. For more than this, use a program for JSON, such as jq.
member() {
  printf '%s\n' "$body" | sed -n -e "s/.*\"$1\":\"//" -e 's/","[a-z_]*":.*//' -e 's/"}.*//' -e 1p
}

ask() {
  if [ -n "$socket" ]; then
    get "http://localhost$1" "" "$socket" --unix-socket "$socket"
  else
    get "$CONCUR_AUTH_URL$1" "Authorization: Bearer $(cat "$CONCUR_AUTH_KEY_FILE")" "$CONCUR_AUTH_URL" --noproxy '*'
  fi
}

show() {
  printf '%s: %s\n' "$1" "$status"
  printf '%s\n' "$body" | tr '{' '\n' | sed -n 's/.*"id":"\([^"]*\)".*"userName":"\([^"]*\)".*/  \1 \2/p'
}

ask "/api/$users"
show "through the proxy"
ask /token
api=$(member geolocation)$users
get "$api" "Authorization: Bearer $(member access_token)" "$api"
show "with a token"
