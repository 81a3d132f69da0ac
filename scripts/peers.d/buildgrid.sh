# Sourced by scripts/peers: BuildGrid as a cache (content-addressable storage and action cache), in memory.

buildgrid_missing() {
    [ -x "$cache/buildgrid/bin/bgd" ] || echo "BuildGrid is not installed"
}

buildgrid_endpoint() { echo "grpc://$1"; }

buildgrid_exec() {
    buildgrid_config "$2:$3" > "$1/server.yml"
    exec "$cache/buildgrid/bin/bgd" server start -v "$1/server.yml"
}

# buildgrid_config ADDRESS
buildgrid_config() {
    cat << END
description: cache for tests
server:
  - !channel { address: "$1", insecure-mode: true }
authorization: { method: none }
storages:
  - !lru-storage &blobs { size: 1024M }
caches:
  - !lru-action-cache &results { storage: *blobs, max-cached-refs: 100000, allow-updates: true, cache-failed-actions: false }
instances:
  - name: ''
    description: the only one
    services:
      - !action-cache { cache: *results }
      - !cas { storage: *blobs }
      - !bytestream { storage: *blobs }
thread-pool-size: 20
END
}
