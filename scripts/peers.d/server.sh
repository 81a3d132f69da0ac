# Sourced by scripts/peers: servers that run in the background, each in a directory and a process group of its own.
#
# A kind of server is a file KIND.sh here with three functions: KIND_missing says why it cannot run, and nothing if it
# can; KIND_endpoint ADDRESS is how clients call it; KIND_exec DIR HOST PORT becomes the server.

# Below the ports that the kernel gives to outgoing connections.
readonly server_port=18980

# load_kind KIND
load_kind() {
    case $1 in
        casd | buildgrid | nginx | minibuild | nagle) source "$peers/$1.sh" ;;
        *) fail "there is no server \`$1\`; there are casd, buildgrid, nginx, minibuild, nagle" ;;
    esac
}

# own_host PID: an address of the loopback network that only this process has, so that no two servers ever want one port.
own_host() { echo "127.$(($1 >> 16 & 63 | 64)).$(($1 >> 8 & 255)).$(($1 & 255))"; }

# start_server KIND DIR
start_server() {
    local kind=$1 dir why host
    load_kind "$kind"
    why=$("${kind}_missing")
    if [ -n "$why" ]; then
        echo "peers: $kind: ${why//$'\n'/, }; \`scripts/peers install\` gets it" >&2
        exit 3
    fi
    mkdir -p "$2"
    dir=$(realpath "$2")
    # A background job of a script leads no group, so setsid does not fork and the pid is the server's.
    setsid "$0" serve "$kind" "$dir" > "$dir/log" 2>&1 < /dev/null &
    echo $! > "$dir/pid"
    host=$(own_host $!)
    await_port $! "$host" "$server_port" || fail_to_start "$kind" "$dir"
    "${kind}_endpoint" "$host:$server_port"
}

# serve_here KIND DIR: what runs in the background.
serve_here() {
    load_kind "$1"
    cd "$2"
    if [ -n "${PEERS_OWNER-}" ]; then end_with "$PEERS_OWNER" $$ & fi
    "$1_exec" "$2" "$(own_host $$)" "$server_port"
}

# end_with OWNER GROUP: waits for the end of the one and kills the other.
end_with() {
    tail --pid="$1" -f /dev/null
    kill -KILL -- "-$2"
}

# await_port PID HOST PORT: gives up when the process ends, or after two minutes.
await_port() {
    local try
    for try in $(seq 1200); do
        if (exec 3<> "/dev/tcp/$2/$3") 2> /dev/null; then return; fi
        kill -0 "$1" 2> /dev/null || return 1
        sleep 0.1
    done
    return 1
}

# fail_to_start KIND DIR
fail_to_start() {
    stop_server "$2"
    tail -n 20 "$2/log" >&2
    fail "$1 did not start; what it said is above"
}

# stop_server DIR: asks the server, then forces whatever is left of its group.
stop_server() {
    local dir pid
    dir=$(realpath "$1")
    [ -f "$dir/pid" ] || fail "no server was started in \`$1\`"
    pid=$(< "$dir/pid")
    if is_ours "$pid" "$dir"; then
        kill -TERM "$pid" 2> /dev/null || true
        await_end "$pid"
        kill -KILL -- "-$pid" 2> /dev/null || true
    fi
    rm "$dir/pid"
}

# is_ours PID DIR: the number may be another's by now. It is not while anything of the server's group lives.
is_ours() {
    local cwd
    cwd=$(readlink "/proc/$1/cwd" || true)
    [ -z "$cwd" ] || [ "$cwd" = "$2" ]
}

# await_end PID: for at most five seconds. A process that only waits to be reaped has ended.
await_end() {
    local try
    for try in $(seq 50); do
        grep -qs '^State:[[:space:]]*[^Z[:space:]]' "/proc/$1/status" || return 0
        sleep 0.1
    done
}
