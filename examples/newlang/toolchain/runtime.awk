# What runs in every program: a stack, the built-in words, and `run` for all others.
# No single quote may stand in this file: it ends up inside one pair of them.

function start(    i) {
    for (i = 1; i < ARGC; i++) push(ARGV[i] + 0)
    run("main")
    exit 0
}

function push(value) { stack[++top] = value }

function pop() {
    if (top == 0) stop("the stack is empty")
    return stack[top--]
}

function stop(message) {
    print "pile: " message > "/dev/stderr"
    exit 1
}

function run(name,    words, count, i, times) {
    if (!(name in body)) { built_in(name); return }
    count = split(body[name], words, " ")
    for (i = 1; i <= count; i++) {
        if (words[i] == "times") {
            i++
            for (times = pop(); times > 0; times--) run(words[i])
        } else run(words[i])
    }
}

function built_in(name,    a, b, c) {
    if (name ~ /^-?[0-9]+$/) { push(name + 0); return }
    if (name == ".") { print pop(); return }
    if (name == "drop") { pop(); return }
    if (name == "assert") { if (!pop()) stop("assertion failed"); return }
    b = pop()
    if (name == "dup") { push(b); push(b); return }
    a = pop()
    if (name == "+") push(a + b)
    else if (name == "-") push(a - b)
    else if (name == "*") push(a * b)
    else if (name == "/") { if (b == 0) stop("division by zero"); push(int(a / b)) }
    else if (name == "mod") { if (b == 0) stop("division by zero"); push(a % b) }
    else if (name == "=") push(a == b)
    else if (name == "<") push(a < b)
    else if (name == "swap") { push(b); push(a) }
    else if (name == "over") { push(a); push(b); push(a) }
    else if (name == "rot") { c = pop(); push(a); push(b); push(c) }
    else stop("unknown word " name)
}
