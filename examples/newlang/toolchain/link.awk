# usage: awk -f link.awk RUNTIME [OBJECT...] > PROGRAM
#
# A program is a shell script that starts awk with the runtime and a table of all definitions. A word defined in two
# objects is an error, and so is a program without `main`.

BEGIN { runtime_file = ARGV[1] }

FILENAME == runtime_file { if ($0 !~ /^#/) runtime = runtime $0 "\n"; next }

{
    if ($1 in origin) {
        print FILENAME ": `" $1 "` is also in " origin[$1] > "/dev/stderr"
        exit failed = 1
    }
    origin[$1] = FILENAME
    name = $1
    $1 = ""
    table = table "    body[\"" name "\"] = \"" substr($0, 2) "\"\n"
}

END {
    if (failed) exit 1
    if (!("main" in origin)) {
        print "no object defines `main`" > "/dev/stderr"
        exit 1
    }
    print "#!/bin/sh"
    print "exec awk -- '"
    printf "%s", runtime
    print "BEGIN {"
    printf "%s", table
    print "    start()"
    print "}"
    print "' \"$@\""
}
