"""usage: embed NAME FILE

Prints a C source that defines `const char NAME[]` with the bytes of FILE, and `const unsigned long NAME_size`.
"""
import pathlib
import sys


def c_source(name, data):
    rows = [", ".join(str(byte) for byte in data[at : at + 20]) for at in range(0, len(data), 20)]
    body = ",\n    ".join(rows + ["0"])
    return f"const char {name}[] = {{\n    {body}\n}};\nconst unsigned long {name}_size = {len(data)};\n"


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    data = pathlib.Path(sys.argv[2]).read_bytes()
    if any(byte > 127 for byte in data):
        sys.exit(f"{sys.argv[2]}: only ASCII can be embedded")
    print(c_source(sys.argv[1], data), end="")
