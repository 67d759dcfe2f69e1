#!/usr/bin/env bash
# Install, run, upgrade, roll back and back up the appliance, without any network.
#   appliance.sh install IMAGE.tar     first installation on this box
#   appliance.sh upgrade IMAGE.tar     load a new version; back to the old one if it is not healthy
#   appliance.sh rollback              back to the version before
#   appliance.sh start | stop | status
#   appliance.sh backup FILE.tar.gz | restore FILE.tar.gz
# IMAGE.tar is made by `docker save`; IMAGE.tar.sha256 must lie beside it.
set -euo pipefail
CONFIG=${CONFIG:-/etc/ms-lesion}
SPOOL=${SPOOL:-/var/lib/ms-lesion/spool}
HOME_FOLDER=${HOME_FOLDER:-/opt/ms-lesion}
UNITS=${UNITS:-/etc/systemd/system}
RUN_AS=${RUN_AS:-10001:10001}
HEALTH_TRIES=${HEALTH_TRIES:-60}
HEALTH_WAIT=${HEALTH_WAIT:-5}
ENV_FILE=$CONFIG/version.env
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

fail() { echo "error: $*" >&2; exit 1; }

compose() {
  local files=(-f "$HERE/compose.yaml")
  if grep -qs '^GPU=1$' "$ENV_FILE"; then files+=(-f "$HERE/compose.gpu.yaml"); fi
  CONFIG=$CONFIG SPOOL=$SPOOL RUN_AS=$RUN_AS docker compose --env-file "$ENV_FILE" "${files[@]}" "$@"
}

value() { sed -n "s/^$1=//p" "$ENV_FILE" 2>/dev/null | tail -1; }

# Replaces one line of version.env; the file is never half written.
set_value() {
  local new=$ENV_FILE.new
  { grep -sv "^$1=" "$ENV_FILE" || true; echo "$1=$2"; } > "$new"
  mv "$new" "$ENV_FILE"
}

# Checks and loads an image file, and prints the image's name.
load() {
  local file=$1 loaded
  [ -f "$file" ] || fail "$file: there is no such file"
  [ -f "$file.sha256" ] || fail "$file.sha256: the checksum is missing"
  (cd "$(dirname "$file")" && sha256sum --status -c "$(basename "$file").sha256") ||
    fail "$file: it differs from its checksum; copy it again"
  loaded=$(docker load -q -i "$file" | sed -n 's/^Loaded image: //p' | tail -1)
  [ -n "$loaded" ] || fail "$file: it holds no named image"
  echo "$loaded"
}

healthy() {
  local state
  for ((i = 0; i < HEALTH_TRIES; i++)); do
    state=$(docker inspect -f '{{.State.Health.Status}}' "$(compose ps -q listener)" 2>/dev/null || true)
    [ "$state" = healthy ] && return 0
    [ "$state" = unhealthy ] && return 1
    sleep "$HEALTH_WAIT"
  done
  return 1
}

case "${1:-}" in
  install)
    [ -f "$CONFIG/listener.yaml" ] || fail "$CONFIG/listener.yaml: write the settings first"
    image=$(load "${2:?IMAGE.tar}")
    mkdir -p "$SPOOL" "$HOME_FOLDER"
    chown "$RUN_AS" "$SPOOL"
    for file in appliance.sh compose.yaml compose.gpu.yaml; do
      [ "$HERE/$file" -ef "$HOME_FOLDER/$file" ] || cp "$HERE/$file" "$HOME_FOLDER/"
    done
    cp "$HERE/ms-lesion.service" "$UNITS/"
    set_value IMAGE "$image"
    systemctl daemon-reload
    systemctl enable --now ms-lesion.service
    healthy || fail "the listener is not healthy; see: docker logs, appliance.sh status"
    echo "installed $image"
    ;;
  upgrade)
    before=$(value IMAGE)
    [ -n "$before" ] || fail "nothing is installed"
    image=$(load "${2:?IMAGE.tar}")
    set_value PREVIOUS "$before"
    set_value IMAGE "$image"
    if compose up -d --remove-orphans && healthy; then
      echo "upgraded from $before to $image"
    else
      set_value IMAGE "$before"
      compose up -d --remove-orphans
      fail "$image is not healthy; $before runs again"
    fi
    ;;
  rollback)
    before=$(value PREVIOUS)
    [ -n "$before" ] || fail "there is no version before this one"
    set_value PREVIOUS "$(value IMAGE)"
    set_value IMAGE "$before"
    compose up -d --remove-orphans
    healthy || fail "$before is not healthy either"
    echo "back to $before"
    ;;
  start) compose up -d --remove-orphans ;;
  stop) compose stop ;;
  status)
    compose ps
    compose exec -T listener \
      python3 -m deploy.appliance.listener -c /etc/ms-lesion/listener.yaml status
    ;;
  backup)
    target=${2:?FILE.tar.gz}
    # running jobs are repeated after a restore; engines are built again
    tar --exclude=./spool/partial -czf "$target.new" \
      -C "$(dirname "$CONFIG")" "$(basename "$CONFIG")" \
      -C "$(dirname "$SPOOL")" --transform "s,^$(basename "$SPOOL"),spool," "$(basename "$SPOOL")"
    mv "$target.new" "$target"
    echo "saved $CONFIG and $SPOOL in $target"
    ;;
  restore)
    source=${2:?FILE.tar.gz}
    [ -f "$source" ] || fail "$source: there is no such file"
    if [ -n "$(ls -A "$SPOOL" 2>/dev/null)" ]; then fail "$SPOOL is not empty; move it away first"; fi
    mkdir -p "$CONFIG" "$SPOOL"
    tar -xzf "$source" -C "$SPOOL" --strip-components=1 spool
    tar -xzf "$source" -C "$CONFIG" --strip-components=1 "$(basename "$CONFIG")"
    chown -R "$RUN_AS" "$SPOOL"
    echo "restored; start with: appliance.sh start"
    ;;
  *)
    sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
