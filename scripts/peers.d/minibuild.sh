# Sourced by scripts/peers: minibuild's own server, of the program MINIBUILD, with HTTP on the same address.

minibuild_missing() {
    [ -x "${MINIBUILD-}" ] || echo "MINIBUILD is not a program"
}

minibuild_endpoint() { echo "grpc://$1"; }

minibuild_exec() {
    exec "$MINIBUILD" serve --log --listen "$2:$3" --dir "$1/store"
}
