# Sourced by scripts/peers: buildbox-casd, a whole Remote Execution API server; actions run in bubblewrap.

casd_missing() {
    [ -x "$cache/buildbox/buildbox-casd" ] || echo "buildbox-casd is not installed"
    has_program bwrap || echo "bubblewrap is not installed"
}

casd_endpoint() { echo "grpc://$1"; }

casd_exec() {
    local mount mounts=()
    for mount in /usr /bin /lib /lib64; do
        [ ! -e $mount ] || mounts+=("--runner-arg=--bind-mount=$mount:$mount")
    done
    exec "$cache/buildbox/buildbox-casd" --bind "$2:$3" --jobs=2 --buildbox-run="$cache/buildbox/buildbox-run" \
        --runner-arg=--disable-localcas "${mounts[@]}" "$1/cas"
}
