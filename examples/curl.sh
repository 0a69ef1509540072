#!/bin/sh
# curl in front of this server: a reply, another one in the same conversation, a stream, and the conversation itself.
#
#   sh examples/curl.sh "Hello"
#
# API_URL names another server than the default, API_KEY the key that it asks for.
set -eu

url="${API_URL:-http://127.0.0.1:5010}"
head="$(mktemp)"
trap 'rm -f "$head"' EXIT

call() {
  curl -sS --fail-with-body -H "Authorization: Bearer ${API_KEY:-none}" -H 'Content-Type: application/json' "$@"
  echo
}

call "$url/v1/models"

# The question must be valid inside a JSON string.
call "$url/v1/chat/completions" -D "$head" -d "{\"messages\": [{\"role\": \"user\", \"content\": \"${1:-Hello}\"}]}"
conversation="$(tr -d '\r' <"$head" | sed -n 's/^x-conversation-id: //Ip')"

# The header names the conversation; the messages are all that the model gets.
call -N "$url/v1/chat/completions" -H "X-Conversation-Id: $conversation" \
  -d '{"stream": true, "messages": [{"role": "user", "content": "And again?"}]}'

call "$url/v1/chat/completions" -d '{"store": false, "messages": [{"role": "user", "content": "Not kept"}]}'

call "$url/api/conversations/$conversation"
