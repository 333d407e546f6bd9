"""Random command lines and TOML files: of every option of every component, with values that fit and that do not."""

import tomllib
from dataclasses import fields
from random import Random

import tomli_w

from mpidp.commandline import parse, presets
from mpidp.config import KINDS, RunOptions, components, every_options, resolve
from mpidp.data import SOURCES
from mpidp.options import dashed, plain_type

OPTIONS = {dashed(f.name): f for options in every_options() for f in fields(options)}
ODD = [
    "", " ", "0", "-1", "1", "2", "3", "7", "1.5", "-0.0", "1e-3", "1e308", "1e999", "nan", "inf", "-inf", "9" * 30,
    "9" * 5000, "-" + "9" * 30, "0x10", "1_000", "1e5", "true", "False", "None", "null", "é", "漢字", "١٢", "\u202etxt",
    "a\nb", "\x00", "\x1b[31m", "--", "-", "--steps", "%s", "{}", "{0}", "../..", "/", "/dev/null", "/dev/zero", "~",
    "~nobody", "\udcff", "[1]", "1,2,3", ",", "64,,64", "a" * 4000, "0:2", "1:inf", "😀",
]  # fmt: skip


def value(rng: Random, name: str, odd: float) -> str:
    """One that may well fit, or, with probability `odd`, one that hardly does."""
    f = OPTIONS.get(name)
    if f is None or rng.random() < odd:
        return rng.choice(ODD)
    choices = f.metadata["choices"]
    if choices:
        return rng.choice(list(choices))
    if name == "data":
        return rng.choice(["python-docs", "synthetic-classes", "synthetic-regression", "digits"])
    kind = plain_type_of(f)
    if kind is int:
        return str(rng.choice([1, 2, 3, 4, 8, 16, 64, rng.randrange(1, 1000), rng.randrange(-5, 10**9)]))
    if kind is float:
        return str(rng.choice([0.5, 0.1, 1e-3, 1, 2, rng.uniform(-1, 2), 10 ** rng.uniform(-12, 12)]))
    return rng.choice([str(f.default), *ODD])


def plain_type_of(f) -> type:
    kinds = {"int": int, "float": float, "str": str, "bool": bool}
    return kinds[f.type.split(" ")[0]] if isinstance(f.type, str) else plain_type(f.type)


def fitting(rng: Random) -> list[str]:
    """A command line whose options are all of the components that it chooses."""
    chosen = {kind: rng.choice(list(components(kind))) for kind in KINDS}
    chosen["data"] = rng.choice(list(SOURCES))
    for kind in rng.sample(KINDS, rng.randrange(2, len(KINDS))):  # most choices go with the defaults alone
        del chosen[kind]
    names = [dashed(f.name) for f in fields(RunOptions) if f.name not in KINDS]
    for kind, name in chosen.items():
        names += [dashed(f.name) for f in fields(components(kind)[name])] * 3
    words = [f"--{kind}={name}" for kind, name in chosen.items()]
    for name in rng.sample(names, rng.randrange(4)):
        if plain_type_of(OPTIONS[name]) is bool:
            words.append(f"--{name}")
        else:
            words += [f"--{name}", value(rng, name, 0.02)]
    return words


def name_of(rng: Random) -> str:
    return rng.choice(
        ["sync", "model", "data", "split", "optimizer", "schedule", "compress", "collective", *OPTIONS]
    )


def arguments(rng: Random) -> list[str]:
    """A command line."""
    if rng.random() < 0.4:
        return fitting(rng)
    odd = rng.choice([0.0, 0.05, 0.3])
    words = []
    for _ in range(rng.choice([1, 1, 2, 2, 3, 4, 6, 10])):
        name = name_of(rng)
        if rng.random() < 0.03:
            words.append(rng.choice(ODD))
        if rng.random() < 0.02:
            name = rng.choice(
                [name[:-1], name + "x", name.upper(), name.replace("-", "_"), "preset", "config"]
            )
        if name in OPTIONS and plain_type_of(OPTIONS[name]) is bool and rng.random() < 0.9:
            words.append(rng.choice([f"--{name}", f"--no-{name}"]))
        elif rng.random() < 0.3:
            words.append(f"--{name}={value(rng, name, odd)}")
        elif rng.random() < 0.98:
            words += [f"--{name}", value(rng, name, odd)]
        else:
            words.append(f"--{name}")
    if rng.random() < 0.05:
        words += ["--preset", rng.choice([*presets(), "none"])]
    return [word for word in words if word not in ("-h", "--help")]


def toml(rng: Random) -> bytes:
    """A file of options: well-formed, and now and then damaged."""
    lines, odd = [], rng.choice([0.0, 0.05, 0.3])
    if rng.random() < 0.4:
        return toml_of(fitting(rng))
    for _ in range(rng.choice([0, 1, 2, 3, 6, 12])):
        name = name_of(rng)
        written = rng.choice(
            [
                lambda text: tomli_w.dumps({"x": text.encode(errors="replace").decode()})[4:].strip(),
                lambda text: text,
                lambda text: rng.choice(
                    ["true", "1979-05-27", "07:32:00", "[1, 2]", "{a = 1}", "0b11", "9" * 5000]
                ),
            ]
        )(value(rng, name, odd))
        lines.append(f"{name} = {written}")
    text = "\n".join(lines).encode(errors="surrogateescape")
    if rng.random() < 0.1:
        text = rng.choice(
            [
                b"a = " + b"[" * 5000,
                b"[run]\n" + text,
                text + b"\xff",
                text[: len(text) // 2],
                b"\xff\xfe" + text,
                b"\0",
            ]
        )
    if text and rng.random() < 0.1:
        at = rng.randrange(len(text))
        text = text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :]
    return text


def toml_of(words: list[str]) -> bytes:
    """A command line's options as a file."""
    lines, name = [], ""
    for word in words:
        if word.startswith("--"):
            name, given, word = word[2:].partition("=")
            if not given:
                lines.append(f"{name} = true")
                continue
        elif lines[-1] == f"{name} = true":
            lines.pop()
        try:
            lines.append(f"{name} = {int(word) if word.lstrip('-').isdecimal() else float(word)}")
        except ValueError:
            lines.append(tomli_w.dumps({name: word.encode(errors="replace").decode()}).strip())
    return "\n".join(lines).encode()


def resolved(words: list[str]) -> None:
    """What the program does with a command line, up to the data; whatever it takes, its record gives again."""
    given, file, preset = parse(words)
    config = resolve(file | given, preset)
    again = resolve(tomllib.loads(config.to_toml()), {})
    assert again == config, f"{again} is not {config}"
