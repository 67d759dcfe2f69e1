#!/usr/bin/env bash
# `monai-deploy package` and `monai-deploy run` on this repository: map_test.sh IMAGE SCRATCH
# IMAGE was built by image_test.sh, whose build cache gives the stage "runtime" at once.
set -euo pipefail
cd "$(dirname "$0")/.."
image="${1:?}"
scratch="${2:?}"
python="${PYTHON:-.venv/bin/python}"
docker="${DOCKER:-docker}"
bin="$(cd "$(dirname "$python")" && pwd)"

# A home and a docker client of its own: the plug-in and the context leave nothing behind.
export HOME="$scratch/home" PATH="$scratch/bin:$bin:$PATH"
container/map/buildx.sh "$HOME/.docker/cli-plugins"
mkdir -p "$scratch/bin"
ln -sf "$(command -v "$docker")" "$scratch/bin/docker"
docker buildx version

cat >"$scratch/registry.yml" <<YAML
version: 0.1
log: {level: info}
storage: {filesystem: {rootdirectory: $scratch/registry}}
http: {addr: "127.0.0.1:0"}
YAML
docker-registry serve "$scratch/registry.yml" >"$scratch/registry.log" 2>&1 &
registry=$!
stop() {
  kill "$registry" 2>/dev/null || true
  docker image rm -f "$base" "$map" >/dev/null 2>&1 || true
}
base="" name=ms-lesion-followup-map version="${image##*:}"
map="$name-x64-workstation-dgpu-linux-amd64:$version"  # as the packager calls it
trap stop EXIT
port=""
for _ in $(seq 1 120); do
  port="$(sed -n 's/.*listening on 127\.0\.0\.1:\([0-9]*\).*/\1/p' "$scratch/registry.log" | head -n 1)"
  [ -z "$port" ] || break
  kill -0 "$registry" 2>/dev/null || break
  sleep 0.5
done
[ -n "$port" ] || { cat "$scratch/registry.log" >&2; exit 1; }
base="localhost:$port/ms-lesion-runtime:${image##*:}"
TAG="$base" BASE="${BASE:?the base image of IMAGE}" DOCKER=docker container/build.sh --network=none \
  --target runtime >"$scratch/runtime.log" 2>&1 || { tail -n 40 "$scratch/runtime.log" >&2; exit 1; }
docker push --quiet "$base"
container/map/package.sh "$base" "$name:$version"

"$python" -m tests.image.small_patient "$scratch/map-in"
mkdir -p "$scratch/map-out" "$scratch/map-empty" "$scratch/map-none"
chmod 777 "$scratch/map-out" "$scratch/map-none"
monai-deploy run "$map" -i "$scratch/map-in" -o "$scratch/map-out" --gpus none --rm \
  --uid 54321 --gid 54321
test -s "$scratch/map-out/results.json"
test -s "$scratch/map-out/report.pdf"
ls "$scratch"/map-out/dicom/*.dcm >/dev/null
if monai-deploy run "$map" -i "$scratch/map-empty" -o "$scratch/map-none" --gpus none --rm \
  --uid 54321 --gid 54321; then
  echo "error: monai-deploy run did not report that the application failed" >&2
  exit 1
fi
[ -z "$(find "$scratch/map-none" -type f)" ]
docker run --rm --network=none --read-only "$map" show pkg >"$scratch/map-pkg.json"
grep -q '"/opt/holoscan/models/brain_ms_flair_t2"' "$scratch/map-pkg.json"
docker run --rm --network=none --read-only --entrypoint cat "$map" \
  /opt/holoscan/docs/sbom.cdx.json >"$scratch/map-bill.json"
grep -q CycloneDX "$scratch/map-bill.json"
echo "monai-deploy package and run: passed"
