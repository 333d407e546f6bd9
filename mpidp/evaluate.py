"""Score a merged model: `[mpirun -n P] python -m mpidp.evaluate --run DIR [--data NAME|PATH]`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpidp.arithmetic import vectors_dtype
from mpidp.comm import Communicator
from mpidp.comm.world import guarded, together
from mpidp.commandline import expanded, parse_small, read_toml
from mpidp.config import Config, resolve
from mpidp.data import Data, Request, load
from mpidp.device import CPU, CUDA
from mpidp.errors import UserError
from mpidp.evaluation import evaluate
from mpidp.machine import pin_threads, print_anything
from mpidp.model_file import Saved, load_model
from mpidp.options import option


@dataclass
class EvaluateOptions:
    """What is scored, on what."""

    run: str = option(help="the run directory that holds model.safetensors and config.toml", metavar="DIR")
    data: str | None = option(None, "other data of the same form than the run's own", metavar="NAME|PATH")
    part: str = option("validation", "which part of the data", choices=("validation", "train"))
    device: str = option(
        CPU, "where it is scored: by the host, or by a GPU through CuPy", choices=(CPU, CUDA)
    )
    batch_size: int = option(32, "samples that a rank scores at a time", minimum=1)
    json: bool = option(False, "print the scores as JSON")


def main(arguments: Sequence[str] | None = None) -> int:
    """Score a model as the command line says; the exit code."""
    print_anything()
    return guarded(lambda comm: run(comm, sys.argv[1:] if arguments is None else arguments))


def run(comm: Communicator, arguments: Sequence[str]) -> int:
    """The program, on the rank of `comm`; its exit code."""
    options = parse_small("[mpirun -n P] python -m mpidp.evaluate", __doc__, EvaluateOptions, arguments, comm)
    if options is None:
        return 0
    pin_threads(None, alone=comm.size == 1)
    saved, config = together(comm, lambda: read(options, comm))
    data = together(comm, lambda: load_as_trained(saved, config))
    part = data.validation if options.part == "validation" else data.train
    scores = evaluate(saved.model, part, comm, range(comm.rank, comm.rank + 1), comm.size, options.batch_size)
    facts = {
        "run": options.run,
        "data": config.run.data,
        "part": options.part,
        "samples": len(part),
        "loss": scores.loss,
    }
    if data.schema.kind == "classes":
        facts["accuracy"] = scores.accuracy
    if data.schema.kind == "tokens":
        facts |= {"perplexity": float(np.exp(scores.loss)), "next_token_accuracy": scores.accuracy}
    if comm.rank == 0:
        shown = [
            f"{name.replace('_', ' ')} {value:.6g}"
            for name, value in facts.items()
            if isinstance(value, float)
        ]
        told = f"{len(part):,} {options.part} samples of {config.run.data}: {', '.join(shown)}"
        print(json.dumps(facts) if options.json else told, flush=True)
    return 0


def read(options: EvaluateOptions, comm: Communicator) -> tuple[Saved, Config]:
    """The model, and the options of its run with `--data` in the place of its data."""
    saved = load_model(expanded(options.run), options.device, comm)
    recorded = read_toml(expanded(options.run) / "config.toml", "--run: ")
    recorded.pop("resume", None)
    if options.data is None:
        return saved, resolve(recorded, {})
    # Options of the run's own source may mean nothing to the other: they are kept where they do.
    return saved, resolve({"data": options.data, "model": recorded["model"]}, recorded)


def load_as_trained(saved: Saved, config: Config) -> Data:
    """The data of the run, in the form that the model takes. Raises UserError where they have another."""
    run = config.run
    context = saved.schema.inputs[0] if saved.schema.kind == "tokens" else None
    request = Request(vectors_dtype(run.dtype), run.seed, context, run.validation_fraction)
    data = load(run.data, config.data, request)
    if (data.schema.kind, data.schema.inputs) != (saved.schema.kind, saved.schema.inputs) or (
        data.schema.outputs > saved.schema.outputs
    ):
        raise UserError(
            f"--data {run.data} has samples of the form {data.schema}, the model was trained on {saved.schema}"
        )
    return data


if __name__ == "__main__":
    sys.exit(main())
