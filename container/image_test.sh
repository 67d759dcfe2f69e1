#!/usr/bin/env bash
# Builds the image from a base made on this machine, and tests it: make image-test
# Starts a container engine where none is reachable (root, Debian's docker.io) and removes all it
# made at the end. Variables: BASE (an image that is there, instead of making one), KEEP_WHEELS=1,
# SCRATCH (where the engine's data go; about 8 GB), ACCELERATOR=cuda13 (the GPU's image; without
# TensorRT itself, whose libraries lie elsewhere; about 20 GB), NO_MAP_PACKAGE=1.
set -euo pipefail
cd "$(dirname "$0")/.."
. container/engine.sh
python="${PYTHON:-.venv/bin/python}"
scratch="$(mktemp -d "${SCRATCH:-/tmp}/image-test.XXXXXX")"
wheels=.cache/image/wheels
began=$SECONDS

step() { echo "== $* ($((SECONDS - began)) s)"; }

clean() {
  local code=$?
  trap - EXIT INT TERM
  if [ "$code" -ne 0 ]; then echo "image test failed ($code)" >&2; fi
  if [ -z "${ENGINE_PID:-}" ] && [ -n "${DOCKER:-}" ]; then
    "$DOCKER" image rm -f "${made[@]}" >/dev/null 2>&1 || true
  fi
  stop_engine
  [ -n "${KEEP_WHEELS:-}" ] || rm -rf .cache/image
  rm -rf --one-file-system "$scratch"
  exit "$code"
}
made=()
trap clean EXIT
trap 'exit 130' INT TERM

step "container engine"
start_engine "$scratch/engine"

tag="test-$$"
if [ -z "${BASE:-}" ]; then
  BASE="ms-lesion-base:$tag"
  made+=("$BASE")
  DOCKER="$DOCKER" container/base.sh "$BASE" >"$scratch/base.log" 2>&1 &
  base_pid=$!
fi
step "wheels by hash"
rm -rf "$wheels"
mkdir -p "$wheels"
"$python" -m pip download -qq --no-deps --require-hashes --only-binary :all: -d "$wheels" \
  -r requirements.lock -r container/requirements-bill.lock
if [ "${ACCELERATOR:-cpu}" = cuda13 ]; then
  export TENSORRT=no
  # One package of this lock is published as source, which is built in the image.
  "$python" -m pip download -qq --no-deps --require-hashes -d "$wheels" -r requirements-gpu.lock
  "$python" -m pip download -qq --no-deps --only-binary :all: -d "$wheels" setuptools wheel
fi
if [ -n "${base_pid:-}" ]; then
  step "base image"
  wait "$base_pid" || { cat "$scratch/base.log" >&2; exit 1; }
fi

step "image"
# The wheels are here, so the build needs no network. The secrets are passed as a hospital behind a
# proxy would pass them; a test looks for what they hold in the image.
"$python" -m container.pip_secret >"$scratch/pip.conf"
secrets=(--secret "id=pip_conf,src=$scratch/pip.conf")
if [ -s /etc/ssl/certs/ca-certificates.crt ]; then
  secrets+=(--secret "id=ca_bundle,src=/etc/ssl/certs/ca-certificates.crt")
fi
export MS_IMAGE="ms-lesion-followup:$tag"
made+=("$MS_IMAGE")
DOCKER="$DOCKER" TAG="$MS_IMAGE" BASE="$BASE" container/build.sh --network=none "${secrets[@]}" \
  >"$scratch/build.log" 2>&1 || { tail -n 60 "$scratch/build.log" >&2; exit 1; }

step "tests of the image"
export MS_IMAGE_REPORT="$scratch/measured.json"
"$python" -m pytest tests/image -p no:cacheprovider --basetemp "$scratch/pytest" "$@"
[ ! -f "$MS_IMAGE_REPORT" ] || cat "$MS_IMAGE_REPORT"

if [ -z "${NO_MAP_PACKAGE:-}" ]; then
  step "monai-deploy package and run"
  BASE="$BASE" container/map_test.sh "$MS_IMAGE" "$scratch"
fi
step "done"
