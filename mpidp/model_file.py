"""The merged model as one safetensors file that says all about itself: tensors by name, options, form of the data."""

import contextlib
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save_file

from mpidp import arithmetic
from mpidp.arrays import to_host
from mpidp.checkpoint.tensors import sync
from mpidp.comm import Communicator
from mpidp.config import Config
from mpidp.data import Schema
from mpidp.data.tokenizer import tokenizer_from_json
from mpidp.device import CPU, Device, opened
from mpidp.errors import UserError
from mpidp.models import MODELS
from mpidp.nn import Model
from mpidp.options import build, dashed


@dataclass
class Saved:
    """A model read back, with what it was trained on."""

    model: Model
    options: dict[str, Any]
    schema: Schema
    tokenizer: Any


def save_model(path: Path, model: Model, config: Config, schema: Schema, tokenizer: Any) -> None:
    """Write `path` by way of a file beside it, so that a crash leaves the older one whole."""
    params = to_host(model.params)
    tensors = {p.name: params[p.lo : p.hi].reshape(p.shape) for p in model.parameters}
    about = {"options": config.flat(), "schema": asdict(schema)}
    metadata = {name: json.dumps(value) for name, value in about.items()}
    if tokenizer is not None:
        metadata["tokenizer"] = tokenizer.to_json()
    partial = path.with_name(f".{path.name}.partial")
    try:
        save_file(tensors, partial, metadata)
        sync(partial)
        os.replace(partial, path)
    except (OSError, safetensors.SafetensorError):
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def load_model(run: Path, device: str = CPU, comm: Communicator | None = None) -> Saved:
    """The merged model of a run directory, in host memory, or on this rank's GPU.

    comm: of the ranks that share this host's GPUs, where one is wanted. Raises UserError where there is no model, the
    file is damaged or was written by another kind of program, or the GPU cannot be used or is too small.
    """
    path = run / "model.safetensors"
    if not path.is_file():
        raise UserError(f"{path}: no such file; a run writes it when it ends (--run names a run's directory)")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        options, schema = json.loads(metadata["options"]), json.loads(metadata["schema"])
        schema = Schema(**{**schema, "inputs": tuple(schema["inputs"])})
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: not a model that mpidp wrote, or damaged ({error})") from None
    model = rebuild(options, schema)
    place = Device() if comm is None else opened(device, arithmetic.AUTO, options["dtype"], comm)
    what = f"{path}: {model.size:,} parameters, and as much beside them,"
    place.require(2 * model.size * model.dtype.itemsize, what, f"leave --device {device} out")
    params, grads = (place.xp.zeros(model.size, model.dtype) for _ in range(2))
    model.bind(params, grads, arithmetic.recorded(options) if place.xp is np else place.products())
    for p in model.parameters:
        if p.name not in tensors or tensors[p.name].shape != p.shape:
            raise UserError(f"{path}: tensor {p.name} of shape {p.shape} is missing or of another shape")
        p.value[...] = place.xp.asarray(tensors[p.name])
    tokenizer = tokenizer_from_json(metadata["tokenizer"]) if "tokenizer" in metadata else None
    return Saved(model, options, schema, tokenizer)


def rebuild(options: dict[str, Any], schema: Schema) -> Model:
    """The model that these flat options describe (those of data, strategy and so on do not matter here)."""
    spec = MODELS[options["model"]]
    own = {dashed(f.name) for f in fields(spec.Options)}
    chosen = build(spec.Options, {name: value for name, value in options.items() if name in own})
    return spec.build(chosen, schema, arithmetic.vectors_dtype(options["dtype"]))
