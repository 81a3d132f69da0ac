# Sourced by scripts/peers: the server of the program MINIBUILD, with MINIBUILD_SERVE_FLAGS; HTTP on the same address.

minibuild_missing() {
    [ -x "${MINIBUILD-}" ] || echo "MINIBUILD is not a program"
}

minibuild_endpoint() { echo "grpc://$1"; }

minibuild_exec() {
    exec "$MINIBUILD" serve ${MINIBUILD_SERVE_FLAGS-} --listen "$2:$3" --dir "$1/store"
}
