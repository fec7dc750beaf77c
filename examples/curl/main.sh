#!/bin/sh
# Print the project, and how long its access token is good.
set -eu
get() { curl -sSf -H 'Metadata-Flavor: Google' "http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1/$1"; }
seconds=$(get 'instance/service-accounts/default/token?alt=text' | sed -n 's/^expires_in //p')
echo "$(get project/project-id): a token, good for $seconds seconds"
