"""usage: idlc --out=DIR [--import=FILE]... FILE...

For each FILE, NAME.idl, writes NAME.h and NAME.c into DIR: a C struct for each of its structs and a function that
formats one. Imports are given in the order in which they need each other.
"""
import argparse
import pathlib
import sys

from generator import parser

FORMATS = {"int": "%d", "double": "%g"}


def header(stem, structs, known):
    lines = [f"#ifndef {stem.upper()}_IDL_H", f"#define {stem.upper()}_IDL_H", "", "#include <stddef.h>"]
    used = {known[kind] for struct in structs for kind, _ in struct.fields if kind in known}
    lines += [f'#include "{name}.h"' for name in sorted(used)]
    for struct in structs:
        lines += ["", f"struct {struct.name} {{"]
        lines += [f"    {kind if kind in FORMATS else 'struct ' + kind} {name};" for kind, name in struct.fields]
        lines += ["};", "", signature(struct) + ";"]
    return "\n".join(lines + ["", "#endif", ""])


def signature(struct):
    return f"size_t {struct.name}_format(const struct {struct.name} *value, char *text, size_t size)"


def source(stem, structs):
    lines = [f'#include "{stem}.h"', "", "#include <stdio.h>"]
    for struct in structs:
        lines += ["", signature(struct) + " {"]
        parts, arguments = [], []
        for kind, name in struct.fields:
            if kind not in FORMATS:
                lines += [f"    char {name}[256];", f"    {kind}_format(&value->{name}, {name}, sizeof {name});"]
            parts.append(f"{name}={FORMATS.get(kind, '%s')}")
            arguments.append(f"value->{name}" if kind in FORMATS else name)
        lines += [f'    return (size_t)snprintf(text, size, "{struct.name}({" ".join(parts)})", {", ".join(arguments)});']
        lines += ["}"]
    return "\n".join(lines + [""])


def main():
    arguments = argparse.ArgumentParser(usage=__doc__)
    arguments.add_argument("--out", type=pathlib.Path, required=True)
    arguments.add_argument("--import", dest="imports", type=pathlib.Path, action="append", default=[])
    arguments.add_argument("files", type=pathlib.Path, nargs="+")
    options = arguments.parse_args()

    known = {}  # type -> stem of the file that has it
    files = set(options.files)
    # The imports hold the files themselves too, each after what it needs.
    for path in options.imports + [path for path in options.files if path not in options.imports]:
        structs = parser.parse(path.read_text(), path, known)
        if path in files:
            (options.out / f"{path.stem}.h").write_text(header(path.stem, structs, known))
            (options.out / f"{path.stem}.c").write_text(source(path.stem, structs))
        known.update({struct.name: path.stem for struct in structs})


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(str(error))
