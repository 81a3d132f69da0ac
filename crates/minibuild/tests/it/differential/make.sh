# Sourced by the commands of a random workspace. `describe PATH...` reads its arguments, and `write OUT` makes an output that
# says what was read: digest, executable bit and first line of each file. The caller sets `version`, `flavour` and `delay`.
nonce=-

# The outputs of this run differ from those of each other run.
draw() {
    read -r nonce < /proc/sys/kernel/random/uuid
}

describe() {
    for path; do
        if [ -d "$path" ]; then
            set -- $(for each; do
                if [ -d "$each" ]; then find -L "$each" | LC_ALL=C sort; else echo "$each"; fi
            done)
            break
        fi
    done
    files='' entries='' sums=''
    for path; do
        if [ -d "$path" ]; then
            entry="d $path"
        elif [ ! -e "$path" ]; then
            entry="l $path $(readlink "$path")"
        else
            read -r first < "$path"
            case $first in
            fail*)
                echo "told to fail by $path" >&2
                exit 1
                ;;
            esac
            files="$files $path"
            if [ -x "$path" ]; then entry="x $path $first"; else entry="- $path $first"; fi
        fi
        entries="$entries$entry
"
    done
    # Long enough for something to happen between the two looks at each file.
    [ -z "$delay" ] || sleep "$delay"
    [ -z "$files" ] || sums=$(sha256sum $files)
}

write() {
    {
        echo "$1 $version $flavour $nonce"
        [ -z "$sums" ] || echo "$sums"
        printf %s "$entries"
        [ -z "$pad" ] || head -c "$pad" /dev/zero
    } > "$1"
}
