# Sourced by scripts/peers: Bazel as a client of minibuild's server.
#
# Each check has a server of its own with an empty store. One Bazel builds and so fills it; another one, which has never
# built, and the first one once more over the other protocol must get everything from it. One action writes something
# different whenever it runs, so equal outputs were not made twice.

# Actions of testdata/bazel; those that make a tool count for it and for the target.
readonly bazel_actions=12

# check_bazel MINIBUILD
check_bazel() {
    has_program bazel || fail "bazel is not installed; \`scripts/peers install\` gets it"
    MINIBUILD=$(realpath "$1")
    export MINIBUILD MINIBUILD_SERVE_FLAGS=--log
    work=$(mktemp -d) passed=0 failed=0
    trap finish_bazel EXIT
    cp -r "$root/testdata/bazel" "$work/workspace"
    check "remote cache by gRPC" cached grpc http
    check "remote cache by HTTP" cached http grpc
    check "remote execution" executed
    echo "peers: $passed passed, $failed failed"
    [ "$failed" = 0 ]
}

# check NAME COMMAND...: goes on after a failure.
check() {
    local name=$1 start=$SECONDS code=0
    local store=$work/${name// /-}
    shift
    # Not in a condition: there a failure within would go unseen.
    set +e
    (set -e && with_server "$@")
    code=$?
    set -e
    if [ "$code" = 0 ]; then
        passed=$((passed + 1))
        echo "  ok      bazel: $name ($((SECONDS - start)) s)"
    else
        failed=$((failed + 1))
        echo "  FAILED  bazel: $name"
    fi
}

# with_server COMMAND...: with the address of a server on an empty store in $address.
with_server() {
    local address
    address=$(start_server minibuild "$store")
    address=${address#*://}
    trap 'stop_server "$store"' EXIT
    "$@"
}

# cached PROTOCOL OTHER: actions run here, results come over either protocol.
cached() {
    bazel_builds a fill local --spawn_strategy=local --remote_cache="$1://$address"
    bazel_builds b "$1" "remote cache hit" --spawn_strategy=local --remote_cache="$1://$address"
    bazel_builds a "$2" "remote cache hit" --spawn_strategy=local --remote_cache="$2://$address"
}

# executed: actions run in the server; what they leave is good for whoever only reads the cache, too.
executed() {
    bazel_builds a fill remote --spawn_strategy=remote --remote_executor="grpc://$address"
    bazel_builds b again "remote cache hit" --spawn_strategy=remote --remote_executor="grpc://$address"
    bazel_builds a cache "remote cache hit" --spawn_strategy=local --remote_cache="grpc://$address"
}

# bazel_builds BASE NAME RUNNER FLAGS...: every action has this runner, and the outputs are those of the build `fill`.
bazel_builds() {
    local base=$1 name=$2 runner=$3
    local logs=$store/$name
    shift 3
    bazel_at "$base" clean > "$logs.clean" 2>&1 || bazel_failed "cleaning failed" "$logs.clean"
    bazel_at "$base" build --symlink_prefix=/ --curses=no --color=no --incompatible_strict_action_env \
        --execution_log_json_file="$logs.json" "$@" //... > "$logs.log" 2>&1 || bazel_failed "build failed" "$logs.log"
    expect_runner "$logs.json" "$runner" || bazel_failed "not every action was $runner" "$logs.log"
    list_outputs "$base" > "$logs.outputs"
    diff "$store/fill.outputs" "$logs.outputs" || bazel_failed "the outputs (first) are not those of the first build" "$logs.log"
}

# bazel_at BASE ARGS...: the server of an output base stays for the next command, but not for long without any.
bazel_at() {
    local base=$1
    shift
    (cd "$work/workspace" && bazel --nohome_rc --max_idle_secs=120 --output_user_root="$work/user" --output_base="$work/$base" "$@")
}

# expect_runner LOG RUNNER
expect_runner() {
    local found
    found=$(sed -n 's/^  "runner": "\(.*\)",$/\1/p' "$1" | sort | uniq -c | sed 's/^ *//')
    [ "$found" = "$bazel_actions $2" ] || { echo "expected '$bazel_actions $2', found '$found'"; return 1; }
}

# list_outputs BASE: path, permissions and digest of each output.
list_outputs() {
    local out=$work/$1/execroot/peers/bazel-out
    (cd "$out" && find . -path '*/bin/*' -printf '%y %m %p\n' | sort && find . -path '*/bin/*' -type f -exec sha256sum {} + | sort)
}

# bazel_failed WHY LOG
bazel_failed() {
    echo "bazel: $1; its output and the end of the server's log:"
    tail -n 30 "$2"
    tail -n 10 "$store/log"
    exit 1
} >&2

finish_bazel() {
    local base
    for base in a b; do
        [ ! -d "$work/$base" ] || bazel_at "$base" shutdown > "$work/shutdown.log" 2>&1 || true
    done
    if [ "$failed" = 0 ]; then
        # Bazel leaves directories that cannot be written.
        chmod -R u+w "$work" && rm -rf "$work"
    else
        echo "peers: all logs are kept in $work" >&2
    fi
}
