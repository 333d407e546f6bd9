"""All kinds of inputs, so many of each, from one seed."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from tests.fuzz import data_fuzz, options_fuzz, programs_fuzz
from tests.fuzz.checkpoint_fuzz import Checkpoints
from tests.fuzz.oracle import Tally

Input = tuple[str, Callable[[], None]]  # what to call it, and what to do with it


def command_lines(rng: Random, folder: Path, count: int) -> Iterator[Input]:
    for _ in range(count):
        words = options_fuzz.arguments(rng)
        yield repr(words)[:2000], lambda words=words: options_fuzz.resolved(words)


def toml_files(rng: Random, folder: Path, count: int) -> Iterator[Input]:
    path = folder / "options.toml"
    for _ in range(count):
        content = options_fuzz.toml(rng)
        path.write_bytes(content)
        yield repr(content)[:2000], lambda: options_fuzz.resolved(["--config", str(path)])


def truncated_checkpoints(rng: Random, folder: Path, count: int) -> Iterator[Input]:
    """Every byte position of every file, if so many are asked for, else some."""
    checkpoints = Checkpoints(folder)
    path = checkpoints.renew()
    places = [(file.name, at) for file in sorted(path.iterdir()) for at in range(file.stat().st_size)]
    for name, at in places if len(places) <= count else rng.sample(places, count):
        checkpoints.cut(name, at)
        yield f"{name} cut at {at}", lambda: checkpoints.read(skip=False, exactly=True)


def damaged_checkpoints(rng: Random, folder: Path, count: int) -> Iterator[Input]:
    checkpoints = Checkpoints(folder)
    for number in range(count):
        forged = checkpoints.damage(rng)
        skip = rng.random() < 0.5
        yield f"damage {number}", lambda skip=skip, forged=forged: checkpoints.read(skip, exactly=not forged)


def data_files(rng: Random, folder: Path, count: int) -> Iterator[Input]:
    seeds = data_fuzz.seeds()
    place = folder / "data"
    for number in range(count):
        kind = rng.choice(list(seeds))
        files = data_fuzz.damaged(rng, seeds[kind])
        if not files:
            continue
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        path = data_fuzz.write(place, files)
        if len(seeds[kind]) > 1:
            path = place
        asked = data_fuzz.request(rng)
        yield (
            f"{kind}, number {number}, {asked}",
            lambda p=path, k=kind, a=asked: data_fuzz.loaded(rng, k, p, a),
        )


def programs(rng: Random, folder: Path, count: int) -> Iterator[Input]:
    place = folder / "run"
    for _ in range(count):
        shutil.rmtree(place, ignore_errors=True)
        words = programs_fuzz.words(rng, place)
        yield repr(words)[:2000], lambda words=words: programs_fuzz.ran(words)


KINDS = {
    "command lines": command_lines,
    "TOML files": toml_files,
    "checkpoints, truncated": truncated_checkpoints,
    "checkpoints, damaged": damaged_checkpoints,
    "data files": data_files,
    "whole programs": programs,
}


def campaign(kind: str, count: int, seed: int, folder: Path) -> tuple[Tally, float]:
    """How `count` inputs of a kind went, and the seconds it took."""
    tally, began = Tally(), time.monotonic()
    for name, body in KINDS[kind](Random(f"{seed} {kind}"), folder, count):
        tally.add(name, body)
    return tally, time.monotonic() - began
