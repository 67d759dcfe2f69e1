#!/usr/bin/env bash
# Puts docker's buildx plug-in into a folder: buildx.sh DIR
# Takes the one that is installed, else Debian's package of a later release (it needs only libc).
set -euo pipefail
target="${1:?usage: buildx.sh DIR}"
mkdir -p "$target"
for folder in "$HOME/.docker/cli-plugins" /usr/local/lib/docker/cli-plugins \
  /usr/local/libexec/docker/cli-plugins /usr/lib/docker/cli-plugins /usr/libexec/docker/cli-plugins; do
  if [ -x "$folder/docker-buildx" ]; then
    cp "$folder/docker-buildx" "$target/"
    exit 0
  fi
done
mapfile -t sites < <(apt-get indextargets --format '$(SITE)' "Created-By: Packages" \
  "Component: main" "Codename: bookworm")
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists/partial,cache/archives/partial,parts}
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${MIRROR:-${sites[0]}} trixie main" \
  >"$work/sources.list"
options=(-o "Dir::Etc::SourceList=$work/sources.list" -o "Dir::Etc::SourceParts=$work/parts"
  -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o "APT::Sandbox::User=root")
apt-get "${options[@]}" update -qq
(cd "$work" && apt-get "${options[@]}" download -qq docker-buildx)
dpkg-deb -x "$work"/docker-buildx_*.deb "$work/root"
cp "$(find "$work/root" -name docker-buildx -type f -perm -u+x | head -n 1)" "$target/docker-buildx"
