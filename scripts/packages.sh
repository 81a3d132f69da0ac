# Sourced by .ci/run and scripts/peers: Debian packages, installed only where their program is missing.

# retry COMMAND...: mirrors fail now and then.
retry() {
    local attempt
    for attempt in 1 2 3; do
        "$@" && return
        echo "attempt $attempt failed: $*" >&2
        sleep $((attempt * 5))
    done
    return 1
}

# has_program NAME: on the paths of packages; a version manager's stand-in is none.
has_program() { PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin command -v "$1" > /dev/null; }

# install_packages PACKAGE...
install_packages() {
    echo "==> install $*"
    local sudo
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    retry $sudo apt-get update -qq
    retry $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" > /dev/null
}

# install_missing PROGRAM:PACKAGE...
install_missing() {
    local entry missing=()
    for entry in "$@"; do
        has_program "${entry%%:*}" || missing+=("${entry##*:}")
    done
    [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
}
