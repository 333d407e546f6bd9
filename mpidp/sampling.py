"""Text from a trained model, a token at a time."""

import numpy as np

from mpidp.arrays import Array, to_host
from mpidp.nn import Model


def generate(
    model: Model,
    prompt: np.ndarray,
    count: int,
    context: int,
    temperature: float = 0.8,
    top_k: int | None = 40,
    seed: int = 0,
) -> np.ndarray:
    """`count` token ids that follow `prompt` (ids), each drawn from softmax(logits / temperature).

    The logits are those of the last position of the window of `context` tokens that ends there. temperature 0
    takes the likeliest token; `top_k` draws among the k likeliest alone. Draws depend on `seed` alone.
    """
    rng = np.random.default_rng(seed)
    ids = [int(i) for i in prompt]
    xp = model.xp
    # One shape for every step: what stands to the right of a position cannot reach it in a causal model.
    window = np.zeros((1, context), np.int32)
    for _ in range(count):
        recent = ids[-context:]
        window[0, : len(recent)] = recent
        logits = to_host(model.predict(xp.asarray(window)))[0, len(recent) - 1].astype(np.float64)
        ids.append(draw(logits, temperature, top_k, rng))
    return np.array(ids[len(prompt) :], np.int32)


def draw(logits: Array, temperature: float, top_k: int | None, rng: np.random.Generator) -> int:
    """One id from softmax(logits / temperature) over the `top_k` largest."""
    if temperature == 0:
        return int(np.argmax(logits))
    if top_k is not None and top_k < logits.size:
        logits = np.where(logits < np.partition(logits, -top_k)[-top_k], -np.inf, logits)
    weights = np.exp((logits - logits.max()) / temperature)
    return int(rng.choice(weights.size, p=weights / weights.sum()))
