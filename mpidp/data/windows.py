"""Samples of text: windows cut from a long row of tokens."""

import numpy as np

from mpidp.data.schema import Data, Dataset, Request, Schema
from mpidp.data.stored import StoredArray
from mpidp.data.tokenizer import Tokenizer
from mpidp.errors import UserError

Tokens = np.ndarray | StoredArray


class Windows(Dataset):
    """Sample i is tokens [i·T, i·T+T), its targets tokens [i·T+1, i·T+T+1): (n-1)//T samples of n tokens."""

    def __init__(self, tokens: Tokens, context: int):
        self.tokens, self.context = tokens, context
        self._rows = None
        if isinstance(tokens, np.ndarray):
            self._rows = np.lib.stride_tricks.sliding_window_view(tokens, context + 1)[::context]

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.context

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        indices = np.asarray(indices, np.int64)
        if self._rows is not None:
            rows = self._rows[indices]
        else:
            rows = self.tokens.rows(indices * self.context, self.context + 1)
        return rows[:, :-1].astype(np.int32, order="C"), rows[:, 1:].astype(np.int32, order="C")


def token_data(
    name: str, tokens: Tokens, tokenizer: Tokenizer | None, vocabulary: int, request: Request, content: str
) -> Data:
    """`tokens`: the tail of at least one window is the validation part. `content`: a hash of them."""
    cut = tail(name, len(tokens), request, request.window + 1)
    return windows(name, tokens[:cut], tokens[cut:], tokenizer, vocabulary, request, content)


def tail(name: str, n: int, request: Request, least: int) -> int:
    """Where the validation tail of n tokens begins; it and what precedes it are `least` tokens or more."""
    held_out = max(least, round(n * request.validation_fraction))
    if n - held_out < least:
        raise UserError(
            f"{name}: {n} tokens are too few for a training and a validation part of at least {least} tokens each: "
            "give more text, a smaller --context or a smaller --validation-fraction"
        )
    return n - held_out


def windows(
    name: str,
    train: Tokens,
    validation: Tokens,
    tokenizer: Tokenizer | None,
    vocabulary: int,
    request: Request,
    content: str,
) -> Data:
    """Data of two rows of tokens. Raises UserError where one of them is shorter than a window."""
    t = request.window
    for part, tokens in (("training", train), ("validation", validation)):
        if len(tokens) < t + 1:
            raise UserError(
                f"{name}: {len(tokens)} {part} tokens are fewer than one window of {t + 1} (--context {t} and the "
                "token after it): give more text or a smaller --context"
            )
    schema = Schema("tokens", (t,), vocabulary)
    return Data(name, schema, Windows(train, t), Windows(validation, t), tokenizer, content=content)
