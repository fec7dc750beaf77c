#!/bin/sh
# gcloud with the account of the metadata server, whatever accounts it has of its own.
set -eu
export GCE_METADATA_ROOT="${GCE_METADATA_HOST:-127.0.0.1:8080}"
CLOUDSDK_CONFIG=$(mktemp -d)
export CLOUDSDK_CONFIG
trap 'rm -rf "$CLOUDSDK_CONFIG"' EXIT
gcloud config list account --format='value(core.account)'
gcloud auth print-access-token >/dev/null && echo "a token"
