#!/usr/bin/env bash
# A container engine of its own for tests, where no daemon is reachable. Source this file, then:
#   start_engine DIR   sets DOCKER (client) and, where a daemon was started, DOCKER_HOST
#   stop_engine        stops what start_engine started and removes its data
# The daemon (Debian's docker.io) keeps everything below DIR and needs root.

ENGINE_SOURCE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

# A client that can build with BuildKit: one with the buildx plug-in, else Debian's, which has it built in.
find_client() {
  local client
  for client in docker /usr/bin/docker; do
    command -v "$client" >/dev/null || continue
    if "$client" buildx version >/dev/null 2>&1 ||
      [[ "$("$client" --version)" == "Docker version 20."* ]]; then
      DOCKER="$client"
      return 0
    fi
  done
  echo "error: no docker client that can build with BuildKit; install docker.io or docker-buildx" >&2
  return 1
}

start_engine() {
  ENGINE_DIR="$1"
  ENGINE_PID=""
  export DOCKER_BUILDKIT=1 DOCKER
  find_client
  if "$DOCKER" info >/dev/null 2>&1; then
    return 0
  fi
  if [ "$(id -u)" -ne 0 ]; then
    echo "error: no docker daemon is reachable, and only root can start one" >&2
    return 1
  fi
  mkdir -p "$ENGINE_DIR"
  ENGINE_BRIDGE=""
  [ -e /sys/class/net/docker0 ] || ENGINE_BRIDGE=docker0
  export DOCKER_HOST="unix://$ENGINE_DIR/docker.sock"
  cat >"$ENGINE_DIR/daemon.json" <<JSON
{"runtimes": {"nvidia": {"path": "$ENGINE_SOURCE/map/runtime"}}}
JSON
  # The runtime named nvidia stands in for NVIDIA's: monai-deploy run always asks for that name.
  dockerd --config-file "$ENGINE_DIR/daemon.json" --storage-driver=overlay2 \
    --data-root "$ENGINE_DIR/data" --exec-root "$ENGINE_DIR/exec" \
    -H "$DOCKER_HOST" --pidfile "$ENGINE_DIR/docker.pid" >"$ENGINE_DIR/dockerd.log" 2>&1 &
  ENGINE_PID=$!
  local attempt
  for attempt in $(seq 1 120); do
    if "$DOCKER" info >/dev/null 2>&1; then
      return 0
    fi
    if ! kill -0 "$ENGINE_PID" 2>/dev/null; then
      break
    fi
    sleep 0.5
  done
  echo "error: the docker daemon did not start:" >&2
  tail -n 20 "$ENGINE_DIR/dockerd.log" >&2
  return 1
}

stop_engine() {
  if [ -z "${ENGINE_PID:-}" ]; then
    return 0
  fi
  "$DOCKER" network prune --force >/dev/null 2>&1 || true
  kill "$ENGINE_PID" 2>/dev/null || true
  wait "$ENGINE_PID" 2>/dev/null || true
  # What a killed container or daemon may have left mounted, deepest first.
  awk -v root="$ENGINE_DIR/" 'index($2, root) == 1 {print $2}' /proc/mounts | sort -r |
    while read -r mount; do umount -l "$mount" || true; done
  if [ -n "$ENGINE_BRIDGE" ] && command -v ip >/dev/null; then
    ip link delete "$ENGINE_BRIDGE" 2>/dev/null || true
  fi
  rm -rf "$ENGINE_DIR"
  ENGINE_PID=""
}
