"""Reads interface files: lines `struct NAME: TYPE FIELD, TYPE FIELD, ...`; `#` starts a comment."""
import dataclasses
import re

SCALARS = ("int", "double")
STRUCT = re.compile(r"struct\s+([a-z]\w*)\s*:\s*(.+)")
FIELD = re.compile(r"([a-z]\w*)\s+([a-z]\w*)")


@dataclasses.dataclass(frozen=True)
class Struct:
    name: str
    fields: tuple  # of (type, name)


def parse(text, origin, known):
    """The structs of one file. `known` names the types it may use besides; it is not changed."""
    structs = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.split("#")[0].strip()
        if not line:
            continue
        match = STRUCT.fullmatch(line)
        if not match:
            raise ValueError(f"{origin}:{number}: expected `struct NAME: TYPE FIELD, ...`")
        struct = Struct(match[1], tuple(parse_field(text, origin, number) for text in match[2].split(",")))
        types = set(SCALARS) | set(known) | {earlier.name for earlier in structs}
        for type_name, _ in struct.fields:
            if type_name not in types:
                raise ValueError(f"{origin}:{number}: unknown type `{type_name}`")
        structs.append(struct)
    return structs


def parse_field(text, origin, number):
    match = FIELD.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{origin}:{number}: expected `TYPE FIELD`, not `{text.strip()}`")
    return match[1], match[2]
