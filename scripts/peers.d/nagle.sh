# Sourced by scripts/peers: the server of the program MINIBUILD, with Nagle's algorithm left on. Linked dynamically it has to be.

nagle_missing() {
    [ -x "${MINIBUILD-}" ] || echo "MINIBUILD is not a program"
    has_program cc || echo "there is no C compiler"
}

nagle_endpoint() { echo "grpc://$1"; }

nagle_exec() {
    cc -shared -fPIC -O1 -o "$1/nagle.so" "$peers/nagle.c"
    LD_PRELOAD=$1/nagle.so exec "$MINIBUILD" serve ${MINIBUILD_SERVE_FLAGS-} --listen "$2:$3" --dir "$1/store"
}
