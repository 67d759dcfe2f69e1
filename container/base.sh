#!/usr/bin/env bash
# Makes a base image from Debian packages, without an image registry: base.sh NAME
# Needs root, debootstrap and a docker daemon. Takes the mirror that this machine's apt uses.
set -euo pipefail
name="${1:?usage: base.sh NAME}"
release="${RELEASE:-bookworm}"
docker="${DOCKER:-docker}"
if [ -z "${MIRROR:-}" ]; then
  mapfile -t sites < <(apt-get indextargets --format '$(SITE)' \
    "Created-By: Packages" "Codename: $release" "Component: main")
  MIRROR="${sites[0]:?apt knows no mirror of $release; set MIRROR}"
fi
folder="$(mktemp -d)"
trap 'rm -rf --one-file-system "$folder"' EXIT
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv \
  --keyring=/usr/share/keyrings/debian-archive-keyring.gpg "$release" "$folder/root" "$MIRROR" \
  >"$folder/log" 2>&1 || { tail -n 20 "$folder/log" >&2; exit 1; }
# No package lists or archives, no mirror of this machine, nothing that only a login needs.
rm -rf "$folder"/root/var/lib/apt/lists/* "$folder"/root/var/cache/apt/* \
  "$folder"/root/var/log/* "$folder"/root/etc/apt/sources.list "$folder"/root/etc/resolv.conf \
  "$folder"/root/usr/share/{man,info,locale}/* "$folder"/root/debootstrap
: >"$folder/root/etc/hostname"
tar -C "$folder/root" --numeric-owner --one-file-system -c . |
  "$docker" import --change 'CMD ["bash"]' - "$name"
