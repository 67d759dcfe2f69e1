#!/usr/bin/env bash
# Makes a MAP with `monai-deploy package`: package.sh BASE_IMAGE NAME[:VERSION]  (make map-package)
# The packager calls the image NAME-x64-workstation-dgpu-linux-amd64:VERSION.
# BASE_IMAGE is the Dockerfile's stage "runtime" in a registry that the daemon reaches, as the
# packager insists on pulling it. Needs the buildx plug-in. What else it needs: docs/container.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
base="${1:?usage: package.sh BASE_IMAGE TAG}"
tag="${2:?usage: package.sh BASE_IMAGE TAG}"
python="$(realpath -s "${PYTHON:-.venv/bin/python}")"
bin="$(dirname "$python")"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# The packager takes its template from its own folder: a copy of it with the project's template and
# entrypoint is put before the installed one. Its stock entrypoint loses the exit code.
site="$("$python" -c 'import holoscan_cli, pathlib; print(pathlib.Path(holoscan_cli.__file__).parent)')"
mkdir "$work/cli"
cp -r "$site" "$work/cli/"
cp container/map/template.jinja2 "$work/cli/holoscan_cli/packager/templates/Dockerfile.jinja2"
cp container/entrypoint.py "$work/cli/holoscan_cli/packager/templates/tools.sh"

# Only what belongs in the application folder: the packager copies the whole folder it is given.
mkdir -p "$work/application" "$work/docs"
cp -r app operators deploy app.yaml requirements.txt "$work/application/"
cp container/__main__.py "$work/application/"
find "$work/application" -name __pycache__ -prune -exec rm -r {} +
cp -r docs/. README.md "$work/docs/"

# The packager would make a builder that runs in a container of its own, which must be downloaded.
# A docker context with the name that it looks for makes it use the daemon's own builder.
if ! docker context inspect holoscan_app_builder >/dev/null 2>&1; then
  docker context create holoscan_app_builder \
    --docker "host=${DOCKER_HOST:-unix:///var/run/docker.sock}" >/dev/null
fi
# The builder is used only where the context is the current one, and DOCKER_HOST would count above it.
unset DOCKER_HOST
DOCKER_CONTEXT=holoscan_app_builder PYTHONPATH="$work/cli" \
  "$python" "$bin/monai-deploy" package "$work/application" \
  --config app.yaml --models models --docs "$work/docs" --platform x86_64 --no-cache \
  --source container/map/artifacts.json --base-image "$base" --tag "$tag"
