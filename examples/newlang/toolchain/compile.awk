# usage: awk -f compile.awk [OBJECT...] MODULE.pile > OBJECT
#
# A module is a list of definitions `: name word... ;`, `#` starts a comment. An object has one line a definition:
# its name and its words. Every word must be a number, built in, defined in this module or in one of the OBJECTs.

BEGIN {
    count = split("+ - * / mod dup swap drop over rot = < . times assert", names)
    for (i = 1; i <= count; i++) known[names[i]] = 1
    module = ARGV[ARGC - 1]
}

FILENAME != module { known[$1] = 1; next }

{ sub(/(^|[ \t])#.*/, "") }

{
    for (i = 1; i <= NF; i++) {
        if (!inside && $i == ":") { inside = 1; name = ""; body = "" }
        else if (!inside) fail("`" $i "` stands outside a definition")
        else if ($i == ";") define(name, body)
        else if (name == "") { name = $i; known_here[name] = FNR }
        else { body = body " " $i; used[$i] = FNR }
    }
}

function define(name, body) {
    if (name == "") fail("a definition without a name")
    if (index(name body, "'") || index(name body, "\"") || index(name body, "\\")) fail("a quote or backslash in `" name "`")
    if (name in known) fail("`" name "` is defined already")
    known[name] = 1
    lines = lines name body "\n"
    inside = 0
}

function fail(message) {
    print module ":" FNR ": " message > "/dev/stderr"
    failed = 1
    exit 1
}

END {
    if (failed) exit 1
    if (inside) fail("`" name "` has no end")
    for (word in used) {
        if (!(word in known) && word !~ /^-?[0-9]+$/) {
            print module ":" used[word] ": unknown word `" word "`" > "/dev/stderr"
            failed = 1
        }
    }
    if (failed) exit 1
    printf "%s", lines
}
