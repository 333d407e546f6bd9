"""GPT-2 (Radford et al. 2019): pre-norm transformer, learned positions, tanh GELU, output tied to the token table."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from mpidp.arrays import Array, to_host
from mpidp.errors import UserError
from mpidp.nn.activations import GELU
from mpidp.nn.attention import CausalSelfAttention
from mpidp.nn.cross_entropy import SoftmaxCrossEntropy
from mpidp.nn.dropout import Dropout
from mpidp.nn.embedding import Embedding, TiedOutput
from mpidp.nn.kernels import kernels_for
from mpidp.nn.layer import Layer, normal
from mpidp.nn.linear import Linear
from mpidp.nn.model import Model
from mpidp.nn.norm import LayerNorm
from mpidp.options import option


@dataclass(frozen=True)
class Size:
    """A shape: blocks, heads of each, channels, tokens of a sequence, rows of the token table (None: the data's)."""

    layers: int
    heads: int
    width: int
    context: int
    vocabulary: int | None = None  # None: the data's


SIZES = {
    "tiny": Size(4, 4, 128, 128),
    "small": Size(6, 6, 384, 256),
    "medium": Size(12, 12, 768, 256),
    "gpt2": Size(12, 12, 768, 1024, 50257),  # 124,439,808 parameters
}


@dataclass
class Options:
    """The shape, by preset and one by one."""

    size: str = option("tiny", "preset of the model's shape", choices=tuple(SIZES))
    layers: int | None = option(None, "transformer blocks (default: the preset's)", minimum=1, maximum=10_000)
    heads: int | None = option(None, "attention heads of a block", minimum=1)
    width: int | None = option(None, "channels of a token's vector", minimum=1)
    context: int | None = option(None, "longest sequence of tokens", minimum=1)
    vocabulary: int | None = option(None, "rows of the token table (default: what the data needs)", minimum=1)
    dropout: float = option(0.0, "probability of dropping an element", minimum=0.0, below=1.0)

    def __post_init__(self) -> None:
        """Fill in what the preset says, so that a record of these options says it all."""
        for name, value in vars(SIZES[self.size]).items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        assert self.width and self.heads
        if self.width % self.heads:
            raise UserError(f"--width {self.width} is not divisible by --heads {self.heads}")


DEFAULTS: dict[str, Any] = {
    "data": "python-docs",
    "optimizer": "adamw",
    "lr": 3e-3,
    "schedule": "cosine",
    "clip": 1.0,
    "warmup": 20,
    "batch-size": 16,
    "steps": 600,
}


class Block(Layer):
    """x ← x + attn(ln_1(x)); x ← x + mlp(ln_2(x)), mlp(x) = c_proj(GELU(c_fc(x))), both written over x (B, T, C).

    dx = dy + (dx of each branch), written over dy. Dropout, if any, ends a branch; attention's probabilities have none.
    The stream itself, and its gradient, are of the model's type. What lies inside a branch may be of the type of the
    products' operands, and each bias but c_attn's is added by whoever takes the layer's output.
    """

    def __init__(self, name: str, width: int, heads: int, residual_std: float, dropout: float):
        small, residual = normal(0.02), normal(residual_std)
        drops = [Dropout(dropout), Dropout(dropout)] if dropout else []
        last = not drops  # of its branch: a linear layer, whose bias is added with the branch
        self.ln_1 = LayerNorm(f"{name}.ln_1", width, branch=True, narrow=True)
        self.attn = CausalSelfAttention(f"{name}.attn", width, heads, small, residual, not last, narrow=True)
        self.ln_2 = LayerNorm(f"{name}.ln_2", width, branch=True, narrow=True)
        inner = {"narrow_input": True, "adds_bias": False}
        self.c_fc = Linear(
            f"{name}.mlp.c_fc", width, 4 * width, small, share="block.dx", narrow_output=True, **inner
        )
        self.gelu = GELU(self.c_fc.bias, narrow=True)
        inner["adds_bias"] = not last
        self.c_proj = Linear(
            f"{name}.mlp.c_proj",
            4 * width,
            width,
            residual,
            share="block.dhidden",
            narrow_output=last,
            **inner,
        )
        self.attn.c_proj.narrow_output = last
        self.biases = [self.attn.c_proj.bias, self.c_proj.bias] if last else [None, None]
        self.attn_branch = [self.ln_1, self.attn, *drops[:1]]
        self.mlp_branch = [self.ln_2, self.c_fc, self.gelu, self.c_proj, *drops[1:]]

    def parameters(self):
        return [p for layer in self.attn_branch + self.mlp_branch for p in layer.parameters()]

    def layers(self):
        yield self
        for layer in self.attn_branch + self.mlp_branch:
            yield from layer.layers()

    def plan(self, shape, arena):
        self.kernels, self.rows = kernels_for(arena.xp), (-1, shape[-1])
        for branch in (self.attn_branch, self.mlp_branch):
            inner = shape
            for layer in branch:
                inner = layer.plan(inner, arena)
        return shape

    def forward(self, x: Array) -> Array:
        for branch, bias in zip((self.attn_branch, self.mlp_branch), self.biases, strict=True):
            y = x
            for layer in branch:
                y = layer.forward(y)
            self.kernels.add(x.reshape(self.rows), y.reshape(self.rows), None if bias is None else bias.value)
        return x

    def backward(self, dy: Array) -> Array:
        for norm, *branch in (self.mlp_branch, self.attn_branch):
            d = dy
            for layer in reversed(branch):
                d = layer.backward(d)
                self.tell(layer)
            norm.backward(d, dy)
            self.tell(norm)
        return dy


def build(options: Options, schema: Any, dtype: Any = np.float32) -> Model:
    """The model for these options and this data; UserError where they do not fit each other."""
    if schema.kind != "tokens":
        raise UserError(
            f"--model gpt learns from text, but this data's kind is {schema.kind!r}: choose a text for --data"
        )
    layers, heads, width, context = (
        getattr(options, name) for name in ("layers", "heads", "width", "context")
    )
    vocabulary = options.vocabulary or schema.outputs
    if vocabulary < schema.outputs:
        raise UserError(
            f"token ids up to {schema.outputs - 1}, but --vocabulary {vocabulary}: "
            f"the data needs at least {schema.outputs}"
        )
    if schema.inputs and schema.inputs[0] > context:
        raise UserError(f"sequences of {schema.inputs[0]} tokens, but --context {context}")
    residual_std = 0.02 / math.sqrt(2 * layers)
    embedding = Embedding(vocabulary, context, width, tied=True)
    stack: list[Layer] = [embedding]
    if options.dropout:
        stack.append(Dropout(options.dropout))
    stack += [Block(f"h.{i}", width, heads, residual_std, options.dropout) for i in range(layers)]
    stack += [LayerNorm("ln_f", width, narrow=True), TiedOutput(embedding.wte, narrow=True)]
    return Model(stack, SoftmaxCrossEntropy(), dtype)


def stream(
    model: Model,
    ids: Sequence[int],
    temperature: float = 1.0,
    top_k: int | None = None,
    rng: np.random.Generator | None = None,
    vocabulary: int | None = None,
) -> Iterator[int]:
    """Token ids that continue `ids`, without end, each drawn from softmax(z / temperature) of the `top_k` likeliest.

    Temperature 0 takes the likeliest. Only ids below `vocabulary` (default: all) are drawn. The last `context` tokens
    are looked at, filled up on the right to a power of two: attention is causal, so that the filling changes nothing,
    and the model is planned for a few lengths alone.
    """
    if not len(ids):
        raise UserError("generating needs at least one token to go on from: the prompt is empty")
    rng = rng or np.random.default_rng()
    context = next(p.shape[0] for p in model.parameters if p.name == "wpe.weight")
    recent = [int(i) for i in ids]
    while True:
        recent = recent[-context:]
        window = np.zeros((1, min(context, max(32, 1 << (len(recent) - 1).bit_length()))), np.int32)
        window[0, : len(recent)] = recent
        z = to_host(model.predict(window)[0, len(recent) - 1, :vocabulary]).astype(np.float64)
        token = int(z.argmax()) if temperature == 0 else _draw((z - z.max()) / temperature, top_k, rng)
        recent.append(token)
        yield token


def generate(model: Model, ids: Sequence[int], count: int, **how: Any) -> list[int]:
    """The first `count` tokens of `stream(model, ids, **how)`."""
    return list(islice(stream(model, ids, **how), count))


def _draw(z: np.ndarray, top_k: int | None, rng: np.random.Generator) -> int:
    """A token by its softmax probability, z ≤ 0 = max z; all but the `top_k` largest logits are left out."""
    if top_k is not None and top_k < z.size:
        z = np.where(z >= np.partition(z, -top_k)[-top_k], z, -np.inf)
    p = np.exp(z)
    return int(rng.choice(z.size, p=p / p.sum()))
