"""Checkpoints, damaged: each is refused, or gives the arrays that were saved."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from random import Random

import numpy as np

from mpidp import checkpoint
from mpidp.checkpoint import manifest as manifests
from mpidp.comm.threads import ThreadCommunicator
from tests.checkpoint.saving import accept, arrays_of, save
from tests.fuzz.bytes_fuzz import mutated

RANKS = 2
HOSTILE = [
    None, True, -1, 0, 1.5, 10**30, 10**400, float("nan"), "", "x", "\0", "../../etc/passwd", "é" * 1000, [], [[]], {},
    {"": {}},
    {"rank-00000.safetensors": 3}, {"rank-99999.safetensors": "0" * 64}, {"../x": "0" * 64},
]  # fmt: skip


class Checkpoints:
    """A folder with two whole checkpoints, renewed for every damage."""

    def __init__(self, folder: Path):
        self.pristine, self.folder = folder / "pristine", folder / "checkpoints"
        save(self.pristine, 1, 2, ranks=RANKS)

    def renew(self) -> Path:
        """The newer of the two, both whole again."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.pristine, self.folder)
        return self.folder / "step-00000002"

    def cut(self, name: str, position: int) -> None:
        """The file of the newer one, truncated."""
        path = self.renew() / name
        path.write_bytes(path.read_bytes()[:position])

    def damage(self, rng: Random) -> bool:
        """Whatever the file system, or a hostile hand, may do; whether the seal is forged, so that all may be said."""
        path = self.renew()
        names = sorted(file.name for file in path.iterdir())
        name = rng.choice(names)
        kind = rng.randrange(8)
        if kind <= 2:
            (path / name).write_bytes(mutated(rng, (path / name).read_bytes()))
        elif kind == 3:
            other = rng.choice([path / rng.choice(names), path.parent / "step-00000001" / name])
            shutil.copy(other, path / "aside")
            os.replace(path / "aside", path / name)
        elif kind == 4:
            (path / name).unlink()
            rng.choice([lambda: None, (path / name).mkdir, lambda: os.mkfifo(path / name)])()
        elif kind == 5:  # a manifest that says something else, sealed as ours are
            said = json.loads((path / "manifest.json").read_text())
            said[rng.choice([*said, "numbers", "options", "diagnostics", "last", "data"])] = rng.choice(
                HOSTILE
            )
            seal(path, said)
        elif kind == 6:
            deep = rng.choice(["[" * 5000, '{"a":' * 5000, "9" * 5000, '"' * 9])
            (path / "manifest.json").write_text(deep)
        else:  # arrays that are not what they say, with a hash that is right
            file = path / rng.choice([n for n in names if n.startswith("rank")])
            content = file.read_bytes()
            (path / file.name).write_bytes(rng.choice([mutated(rng, content), header(rng)]))
            said = json.loads((path / "manifest.json").read_text())
            said["files"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
            seal(path, said)
        return kind in (5, 7)

    def read(self, skip: bool, exactly: bool) -> None:
        """Take up the newest, or with `skip` the newest that is whole; exactly: nobody forged a seal."""
        comm = ThreadCommunicator(0, 1)
        path, manifest, skipped = checkpoint.find(comm, self.folder, skip, accept)
        files = checkpoint.Files(comm, path, manifest)
        for rank in range(min(files.ranks, RANKS)):
            arrays = files.of(rank)
            assert all(isinstance(array, np.ndarray) for array in arrays.values())
            if exactly:
                saved = arrays_of(rank, manifest["step"])
                assert arrays.keys() == saved.keys() and all((arrays[k] == saved[k]).all() for k in saved), (
                    arrays
                )
        assert skip or not skipped


def seal(path: Path, said: dict) -> None:
    (path / "manifest.json").write_text(json.dumps(said | {"seal": manifests.seal(said)}))


def header(rng: Random) -> bytes:
    """A safetensors file whose header is hostile."""
    entry = {
        "dtype": rng.choice(["F32", "F64", "BF16", "X", 3, None]),
        "shape": rng.choice([[5], [-5], [2**62, 4], [2**63], [], ["5"], [5.0], None]),
        "data_offsets": rng.choice([[0, 20], [0, 2**63], [20, 0], [-4, 16], [0], None, ["0", "20"]]),
    }
    text = rng.choice(
        [
            json.dumps({"params": entry}),
            json.dumps([entry]),
            "{" * 3000,
            json.dumps({"params": entry, "__metadata__": entry}),
            "",
        ]
    ).encode()
    return rng.choice([len(text), 2**63, 0, len(text) + 1]).to_bytes(8, "little") + text + bytes(20)
