"""Text: a long row of tokens, cut into windows."""

import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpidp.data.files import load_array, map_bytes, reading
from mpidp.data.schema import Data, Dataset, Request, Schema
from mpidp.data.tokenizer import Bytes, Tokenizer, read_tokenizer, train_bpe
from mpidp.errors import UserError
from mpidp.options import option

_BLOCK = 1 << 22  # tokens looked at together, so that scanning a mapped file holds little of it
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
SUFFIXES = frozenset(
    ".txt .text .md .rst .org .tex .html .htm .xml .json .jsonl .toml .yaml .yml .ini .cfg .sql .sh .py .pyi"
    " .c .h .cc .cpp .hpp .cu .java .js .ts .go .rs .css".split()
)


@dataclass
class TextOptions:
    """How text becomes tokens."""

    tokenizer: str = option("bytes", "bytes, bpe (trained on the training text), or a tokenizers JSON file")
    bpe_vocabulary: int | None = option(None, "tokens of --tokenizer bpe (4096 when not given)", minimum=257)


@dataclass
class SourceCodeOptions(TextOptions):
    """Text, of which no more is read than asked."""

    max_bytes: int = option(16_000_000, "read no more than so many bytes of source files", minimum=1)


@dataclass
class TokenFileOptions:
    """Where the ids of a token file come from."""

    decoder: str | None = option(None, "the tokenizers JSON file that wrote the token ids, to show text")


class Windows(Dataset):
    """Sample i is tokens [i·T, i·T+T), its targets tokens [i·T+1, i·T+T+1): (n-1)//T samples of n tokens."""

    def __init__(self, tokens: np.ndarray, context: int):
        self.tokens, self.context = tokens, context
        rows = np.lib.stride_tricks.sliding_window_view(tokens, context + 1)
        self._rows = rows[::context]

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = self._rows[np.asarray(indices, np.int64)]
        return rows[:, :-1].astype(np.int32, order="C"), rows[:, 1:].astype(np.int32, order="C")


def text_data(name: str, content: np.ndarray, options: TextOptions, request: Request) -> Data:
    """`content` (uint8): its tail is the validation part; the tokenizer is trained on the rest alone."""
    if options.bpe_vocabulary is not None and options.tokenizer != "bpe":
        raise UserError(
            f"--bpe-vocabulary goes with --tokenizer bpe, not with --tokenizer {options.tokenizer}"
        )
    if options.tokenizer == "bytes":
        return token_data(name, content, Bytes(), 256, request)
    cut = _tail(name, len(content), request, 1)
    while cut > 0 and content[cut] & 0xC0 == 0x80:  # inside a UTF-8 character
        cut -= 1
    train, validation = (part.tobytes().decode(errors="replace") for part in (content[:cut], content[cut:]))
    if options.tokenizer == "bpe":
        tokenizer: Tokenizer = train_bpe(train, options.bpe_vocabulary or 4096)
    elif os.path.isfile(options.tokenizer):
        tokenizer = read_tokenizer(options.tokenizer)
    else:
        raise UserError(
            f"--tokenizer {options.tokenizer}: no such tokenizer or file; known: bytes, bpe, "
            "and the path of a tokenizers JSON file"
        )
    parts = tokenizer.encode(train), tokenizer.encode(validation)
    return _windows(name, *parts, tokenizer, tokenizer.size, request)


def token_data(
    name: str, tokens: np.ndarray, tokenizer: Tokenizer | None, vocabulary: int, request: Request
) -> Data:
    """`tokens`: the tail of at least one window is the validation part."""
    cut = _tail(name, len(tokens), request, request.window + 1)
    return _windows(name, tokens[:cut], tokens[cut:], tokenizer, vocabulary, request)


def _tail(name: str, n: int, request: Request, least: int) -> int:
    """Where the validation tail of n tokens begins; it and what precedes it are `least` tokens or more."""
    held_out = max(least, round(n * request.validation_fraction))
    if n - held_out < least:
        raise UserError(
            f"{name}: {n} tokens are too few for a training and a validation part of at least {least} tokens each: "
            "give more text, a smaller --context or a smaller --validation-fraction"
        )
    return n - held_out


def _windows(name, train, validation, tokenizer, vocabulary, request) -> Data:
    t = request.window
    for part, tokens in (("training", train), ("validation", validation)):
        if len(tokens) < t + 1:
            raise UserError(
                f"{name}: {len(tokens)} {part} tokens are fewer than one window of {t + 1} (--context {t} and the "
                "token after it): give more text or a smaller --context"
            )
    schema = Schema("tokens", (t,), vocabulary)
    return Data(name, schema, Windows(train, t), Windows(validation, t), tokenizer)


def python_docs(options: TextOptions, request: Request) -> Data:
    """The reference manual inside this Python, in the order of its topics' names: about 460 kB of English."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UserError(
            "--data python-docs: this Python lacks pydoc_data.topics: install its complete standard library "
            "(Debian: libpython3-stdlib), or choose --data python-source or a path"
        ) from None
    content = "\n\n".join(topics[name] for name in sorted(topics)).encode()
    return text_data("python-docs", np.frombuffer(content, np.uint8), options, request)


def python_source(options: SourceCodeOptions, request: Request) -> Data:
    """The sources of this Python's standard library, without its tests, in the order of their paths."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = _walk(root, frozenset({".py"}), _SKIPPED)
    content = _joined(paths, options.max_bytes)
    if not len(content):
        raise UserError(
            f"--data python-source: no source files in {root}: choose --data python-docs or a path"
        )
    return text_data("python-source", content, options, request)


def text_file(path: Path, options: TextOptions, request: Request) -> Data:
    """Any file, byte by byte as it is, mapped."""
    return text_data(str(path), map_bytes(path), options, request)


def text_folder(path: Path, options: TextOptions, request: Request) -> Data:
    """All text files in and below a folder, in the order of their paths; hidden ones are passed over."""
    content = _joined(_walk(path, SUFFIXES, set()))
    if not len(content):
        raise UserError(
            f"{path}: no text in this folder: none of its files is a non-empty .txt, .md, .py, ..."
        )
    return text_data(str(path), content, options, request)


def token_file(path: Path, options: TokenFileOptions, request: Request) -> Data:
    """A `.npy` of token ids (integers, one dimension), mapped.

    The vocabulary is that of --decoder, or else the largest id + 1.
    """
    tokens = load_array(path)
    largest = -1
    for start in range(0, len(tokens), _BLOCK):
        block = tokens[start : start + _BLOCK]
        if block.min() < 0:
            at = int(np.argmax(block < 0))
            raise UserError(f"{path}: token {start + at} is {block[at]}: token ids must not be negative")
        largest = max(largest, int(block.max()))
    if largest >= 2**31:
        raise UserError(f"{path}: token id {largest} is too large: ids must be below 2³¹")
    if options.decoder is None:
        return token_data(str(path), tokens, None, largest + 1, request)
    tokenizer = read_tokenizer(options.decoder)
    if largest >= tokenizer.size:
        raise UserError(
            f"{path}: token id {largest} is beyond the {tokenizer.size} tokens of --decoder {options.decoder}"
        )
    return token_data(str(path), tokens, tokenizer, tokenizer.size, request)


def _walk(root: Path, suffixes: frozenset[str], skipped: set[str]) -> list[Path]:
    """Files below `root` that end in one of `suffixes`, in the order of their relative POSIX paths."""
    found = []

    def refuse(error: OSError) -> None:
        raise error

    with reading(root):
        for folder, folders, files in os.walk(root, onerror=refuse):
            folders[:] = [f for f in folders if f not in skipped and not f.startswith(".")]
            found += [Path(folder, f) for f in files if Path(f).suffix.lower() in suffixes and f[0] != "."]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _joined(paths: list[Path], limit: int | None = None) -> np.ndarray:
    """The files' contents (uint8), a line end between two of them that are not empty, cut at `limit` bytes."""
    content = bytearray()
    for path in paths:
        if limit is not None and len(content) >= limit:
            break
        with reading(path):
            text = path.read_bytes()
        if text:
            content += b"\n" * bool(content) + text
    return np.frombuffer(content, np.uint8)[:limit]
