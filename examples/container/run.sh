#!/bin/sh
# Run an image with the metadata and the identity of a gcemds in a container beside it: ./run.sh IMAGE [ARGS]
set -eu
docker network create example-mds >/dev/null
docker run --detach --rm --name example-mds --network example-mds gcemds:dev >/dev/null
trap 'docker rm --force example-mds >/dev/null; docker network rm example-mds >/dev/null' EXIT
docker run --rm --network example-mds \
	--env GCE_METADATA_HOST=example-mds:8080 --env GCE_METADATA_IP=example-mds:8080 --env GCE_METADATA_ROOT=example-mds:8080 "$@"
