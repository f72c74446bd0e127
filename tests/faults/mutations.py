"""Seeded changes of files as damage and careless editing make them."""

import json
import re

JSON_VALUES = (
    *[
        "null",
        "true",
        "-1",
        "0",
        "0.5",
        "1e30",
        "1e999",
        "-1e999",
        "NaN",
        "Infinity",
        '""',
        '"x"',
        "[]",
        "{}",
        "[[1]]",
    ],
    *(r'"\ud800"', r'"\u0000"', "18446744073709551616", '"../x"', '"' + "x" * 5000 + '"'),
    *("9" * 5000, "1" + "0" * 400, "[" * 3000 + "]" * 3000, '{"a":' * 3000 + "1" + "}" * 3000),
)
TOML_VALUES = (
    *[
        "true",
        "-1",
        "0",
        "0.5",
        "nan",
        "inf",
        "1e30",
        "1e999",
        "''",
        "'x'",
        "[]",
        "{}",
        "[[1]]",
        "[1,'a']",
        "2024-01-01",
        "12:00:00",
    ],
    *(
        "18446744073709551616",
        "9" * 5000,
        "[" * 2000 + "]" * 2000,
        "'../x'",
        "'" + "x" * 5000 + "'",
    ),
)


def mutated(generator, content, kind):
    """Other bytes than a file's; `kind` is json, lines (JSON a line), toml or binary."""
    by_structure = {"json": mutate_json, "lines": mutate_a_line, "toml": mutate_toml}.get(kind)
    for _ in range(100):
        changed = (
            by_structure(generator, content)
            if by_structure is not None and generator.random() < 0.6
            else mutate_bytes(generator, content)
        )
        if changed != content:
            return changed
    raise AssertionError("nothing changed")


def mutate_bytes(generator, content):
    """A flipped bit, or a piece that is lost, doubled, zeroed or replaced; a lost, doubled or moved line."""
    start = generator.randrange(len(content))
    size = min(generator.choice((1, 2, 8, 64, 4096)), len(content) - start)
    piece = content[start : start + size]
    before, after = content[:start], content[start + size :]
    lines = content.split(b"\n")
    number = generator.randrange(len(lines))
    choice = generator.randrange(9)
    if choice < 3:
        return before + bytes([piece[0] ^ 1 << generator.randrange(8)]) + piece[1:] + after
    if choice == 3:
        return before
    if choice == 4:
        return before + after
    if choice == 5:
        return before + piece + piece + after
    if choice == 6:
        return before + generator.choice((bytes(size), generator.randbytes(size))) + after
    line = lines.pop(number)
    if choice == 7:
        lines.insert(generator.randint(0, len(lines)), line)
        lines[number:number] = [line] * generator.randint(0, 1)
    return b"\n".join(lines)


def places(content, path=()):
    """The path of every value of JSON data."""
    if path:
        yield path
    items = content.items() if isinstance(content, dict) else ()
    if isinstance(content, list):
        items = list(enumerate(content))[:20]
    for key, value in items:
        yield from places(value, (*path, key))


def mutate_json(generator, text):
    """One value is another, one key is missing, called otherwise or new."""
    content = json.loads(text)
    path = generator.choice(list(places(content)) or [()])
    if not path:
        return generator.choice(JSON_VALUES).encode()
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    last, marked = path[-1], "\x01mutated\x01"
    choice = generator.randrange(6) if isinstance(holder, dict) else 5
    if choice == 0:
        del holder[last]
    elif choice == 1:
        holder[f"{last}x"] = holder.pop(last)
    elif choice == 2:
        holder["new"] = marked
    else:
        holder[last] = marked
    dumped = json.dumps(content, indent=1 if b"\n " in text else None)
    return dumped.replace(json.dumps(marked), generator.choice(JSON_VALUES)).encode() + b"\n"


def mutate_a_line(generator, text):
    lines = text.rstrip(b"\n").split(b"\n")
    number = generator.randrange(len(lines))
    lines[number] = mutate_json(generator, lines[number]).rstrip(b"\n")
    return b"\n".join(lines) + b"\n"


def mutate_toml(generator, text):
    """One value is another, or one key or table is called otherwise."""
    lines = text.decode().split("\n")
    known = [n for n, line in enumerate(lines) if re.match(r"\s*[\w.\"-]+\s*=", line)]
    if not known or generator.random() < 0.2:
        number = generator.randrange(len(lines))
        lines[number] = re.sub(r"\w+", lambda word: word[0] + "x", lines[number], count=1)
    else:
        number = generator.choice(known)
        key = lines[number].partition("=")[0]
        lines[number] = f"{key}= {generator.choice(TOML_VALUES)}"
    return "\n".join(lines).encode()
