"""Text to token ids and back."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mpidp.data.files import read_bytes
from mpidp.errors import UserError

_PIECE = 1 << 20  # characters handed to the tokenizers library at once: it needs ~100 bytes a token


class Tokenizer:
    """encode(text) -> int32 ids in [0, size); decode(ids) -> text; `tokenizer_from_json` reads `to_json`."""

    name: str
    size: int

    def encode(self, text: str) -> np.ndarray:
        raise NotImplementedError

    def decode(self, ids: Any) -> str:
        raise NotImplementedError

    def to_json(self) -> str:
        raise NotImplementedError


class Bytes(Tokenizer):
    """One token a byte of the UTF-8 text; 256 of them."""

    name = "bytes"
    size = 256

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def decode(self, ids: Any) -> str:
        """Text of the ids; what is no UTF-8, or no byte at all, shows as U+FFFD."""
        ids = np.asarray(ids, np.int64)
        # 0xFF occurs in no UTF-8 text, so that it decodes to U+FFFD.
        return np.where((ids < 0) | (ids > 255), 255, ids).astype(np.uint8).tobytes().decode(errors="replace")

    def to_json(self) -> str:
        return json.dumps({"type": "bytes"})


class Pieces(Tokenizer):
    """A tokenizer of the `tokenizers` library, without the special tokens that it may add around a text."""

    def __init__(self, inner: Any, name: str):
        self.inner, self.name = inner, name
        self.size = max(inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, text: str) -> np.ndarray:
        pieces = self.inner.encode_batch(_pieces(text), add_special_tokens=False)
        ids = [np.array(piece.ids, np.int32) for piece in pieces]
        return np.concatenate(ids) if ids else np.empty(0, np.int32)

    def decode(self, ids: Any) -> str:
        """Text of the ids; ids beyond the vocabulary stand for nothing."""
        return self.inner.decode([int(i) for i in ids if 0 <= i < self.size], skip_special_tokens=False)

    def to_json(self) -> str:
        return self.inner.to_str()


def train_bpe(texts: Iterable[str], size: int) -> Pieces:
    """Byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) of the texts' bytes, with at most `size` tokens.

    Deterministic: pairs of equal count are taken in a fixed order. Every text can be encoded: the 256 bytes
    are tokens. Raises UserError where the tokenizers library is missing.
    """
    library = _library("--tokenizer bpe")
    alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    inner = library.Tokenizer(library.models.BPE())
    inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=[], show_progress=False
    )
    inner.train_from_iterator((piece for text in texts for piece in _pieces(text)), trainer)
    return Pieces(inner, "bpe")


def tokenizer_from_json(text: str, name: str = "tokenizer.json") -> Tokenizer:
    """The tokenizer of which `text` is the JSON; raises UserError, naming it `name`, where it is none."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: not a tokenizer: JSON error: {error}") from None
    if content == {"type": "bytes"}:
        return Bytes()
    library = _library(name)
    try:
        inner = library.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{name}: not a file of the tokenizers library: {error}") from None
    return Pieces(inner, name)


def read_tokenizer(path: str) -> Tokenizer:
    """The tokenizer in a JSON file, as `to_json` or the tokenizers library wrote it."""
    try:
        text = read_bytes(Path(path)).decode()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a tokenizer: not a UTF-8 text file") from None
    return tokenizer_from_json(text, path)


def _pieces(text: str) -> list[str]:
    """`text` in pieces of about 1 MiB, cut after line ends only."""
    pieces, start = [], 0
    while start < len(text):
        cut = text.find("\n", start + _PIECE) + 1 or len(text)
        pieces.append(text[start:cut])
        start = cut
    return pieces


def _library(what: str) -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError:
        raise UserError(f"{what} needs the tokenizers library: pip install 'mpidp[text]'") from None
    return tokenizers
