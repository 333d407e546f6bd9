"""Text from a trained GPT: `python -m mpidp.generate --run DIR --prompt 'The for statement'`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from mpidp.comm import Communicator
from mpidp.comm.world import guarded
from mpidp.commandline import expanded, parse_small
from mpidp.device import CPU, CUDA
from mpidp.errors import UserError
from mpidp.machine import print_anything
from mpidp.model_file import load_model
from mpidp.models.gpt import stream
from mpidp.options import option


@dataclass
class GenerateOptions:
    """Whose text, from what on, and how it is drawn."""

    run: str = option(help="the run directory that holds model.safetensors", metavar="DIR")
    prompt: str = option("The ", "text to go on from")
    tokens: int = option(200, "how many tokens to write", minimum=0)
    temperature: float = option(
        0.8, "0 takes the likeliest token, 1 draws from the model's own odds", minimum=0
    )
    top_k: int | None = option(None, "draw among the k likeliest tokens alone", minimum=1)
    seed: int = option(0, "of the draws", minimum=0)
    device: str = option(
        CPU, "where the model computes: in the host's memory, or on a GPU by CuPy", choices=(CPU, CUDA)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write text as the command line says; the exit code."""
    print_anything()
    return guarded(lambda comm: run(comm, sys.argv[1:] if arguments is None else arguments))


def run(comm: Communicator, arguments: Sequence[str]) -> int:
    """The program, on the rank of `comm`: rank 0 writes, the others have nothing to do; its exit code."""
    options = parse_small("python -m mpidp.generate", __doc__, GenerateOptions, arguments, comm)
    if options and options.device == CUDA:
        comm.hosts()  # which all ranks ask together, or nobody
    if options is None or comm.rank > 0:
        return 0
    saved = load_model(expanded(options.run), options.device, comm)
    if saved.tokenizer is None or saved.schema.kind != "tokens":
        raise UserError(f"--run {options.run}: --model {saved.options['model']} was not trained on text")
    prompt = saved.tokenizer.encode(options.prompt)
    if not len(prompt):
        raise UserError("--prompt is empty: give at least one character to go on from")
    rng = np.random.default_rng(options.seed)
    tokens = stream(saved.model, prompt, options.temperature, options.top_k, rng, saved.tokenizer.size)
    print(options.prompt, end="", flush=True)
    ids, shown = [], ""
    for token in islice(tokens, options.tokens):
        ids.append(token)
        text = saved.tokenizer.decode(ids)
        if not text.endswith("\ufffd"):  # else a character may be half written
            print(text[len(shown) :], end="", flush=True)
            shown = text
    print(saved.tokenizer.decode(ids)[len(shown) :], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
