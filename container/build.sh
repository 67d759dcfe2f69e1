#!/usr/bin/env bash
# Builds the image: make image. Arguments go to docker build. Variables: TAG, BASE, ACCELERATOR,
# GPU_INDEX, TENSORRT, and PIP_CONF and CA_BUNDLE (files, passed as secrets).
set -euo pipefail
cd "$(dirname "$0")/.."
export DOCKER_BUILDKIT=1
docker="${DOCKER:-docker}"
field() { sed -n "/^  $1: */{s///p;q}" app.yaml; }
title="$(field title)"
version="$(field version)"
accelerator="${ACCELERATOR:-cpu}"
suffix=""
[ "$accelerator" = cpu ] || suffix="-$accelerator"
words=(--build-arg "TITLE=$title" --build-arg "VERSION=$version"
  --build-arg "ACCELERATOR=$accelerator"
  --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || true)")
[ -z "${BASE:-}" ] || words+=(--build-arg "BASE=$BASE")
[ -z "${GPU_INDEX:-}" ] || words+=(--build-arg "GPU_INDEX=$GPU_INDEX")
[ -z "${TENSORRT:-}" ] || words+=(--build-arg "TENSORRT=$TENSORRT")
[ -z "${PIP_CONF:-}" ] || words+=(--secret "id=pip_conf,src=$PIP_CONF")
[ -z "${CA_BUNDLE:-}" ] || words+=(--secret "id=ca_bundle,src=$CA_BUNDLE")
exec "$docker" build --progress=plain --tag "${TAG:-ms-lesion-followup:$version$suffix}" "${words[@]}" \
  "$@" .
