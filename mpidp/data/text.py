"""Text: files and folders of it, as bytes or by a tokenizer."""

import os
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpidp.data.files import reading
from mpidp.data.schema import Data, Request
from mpidp.data.stored import Held, Stored
from mpidp.data.tokenizer import Bytes, Tokenizer, read_tokenizer, train_bpe
from mpidp.data.windows import tail, token_data, windows
from mpidp.errors import UserError
from mpidp.options import option

_BLOCK = 1 << 24  # bytes that are made text together
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
SUFFIXES = frozenset(
    ".txt .text .md .rst .org .tex .html .htm .xml .json .jsonl .toml .yaml .yml .ini .cfg .sql .sh .py .pyi"
    " .c .h .cc .cpp .hpp .cu .java .js .ts .go .rs .css".split()
)

PACKED = {
    ".gz": "gunzip",
    ".bz2": "bunzip2",
    ".xz": "unxz",
    ".zst": "unzstd",
    ".zip": "unzip",
    ".tar": "tar -x",
    ".tgz": "tar -xz",
}


@dataclass
class TextOptions:
    """How text becomes tokens."""

    tokenizer: str = option("bytes", "bytes, bpe (trained on the training text), or a tokenizers JSON file")
    bpe_vocabulary: int | None = option(None, "tokens of --tokenizer bpe (4096 when not given)", minimum=257)


@dataclass
class SourceCodeOptions(TextOptions):
    """Text, of which no more is read than asked."""

    max_bytes: int = option(16_000_000, "read no more than so many bytes of source files", minimum=1)


def text_data(name: str, content: Stored | Held, options: TextOptions, request: Request) -> Data:
    """The tail of `content` is the validation part; the tokenizer is trained on the rest alone.

    Bytes are tokens as they are, whatever they mean; a tokenizer needs text: raises UserError with the place of the
    first byte that is no UTF-8.
    """
    if options.bpe_vocabulary is not None and options.tokenizer != "bpe":
        raise UserError(
            f"--bpe-vocabulary goes with --tokenizer bpe, not with --tokenizer {options.tokenizer}"
        )
    if options.tokenizer == "bytes":
        return token_data(name, content.array(), Bytes(), 256, request, content.digest())
    cut = _whole(content, tail(name, len(content), request, 1))
    if options.tokenizer == "bpe":
        tokenizer: Tokenizer = train_bpe(texts(content, 0, cut), options.bpe_vocabulary or 4096)
    elif os.path.isfile(options.tokenizer):
        tokenizer = read_tokenizer(options.tokenizer)
    else:
        raise UserError(
            f"--tokenizer {options.tokenizer}: no such tokenizer or file; known: bytes, bpe, "
            "and the path of a tokenizers JSON file"
        )
    parts = [
        _encoded(name, tokenizer, texts(content, *ends), request) for ends in ((0, cut), (cut, len(content)))
    ]
    return windows(name, *parts, tokenizer, tokenizer.size, request, content.digest())


def texts(content: Stored | Held, lo: int, hi: int) -> Iterator[str]:
    """Bytes [lo, hi) as text, some MiB at a time, cut after line ends where there are any."""
    while lo < hi:
        block = content.read(lo, min(lo + _BLOCK, hi))
        if lo + len(block) < hi:
            block = block[: block.rfind(b"\n") + 1 or _whole(Held("", block), len(block) - 1) or len(block)]
        at = block.find(0)
        try:
            text = block.decode()
        except UnicodeDecodeError as error:
            at = error.start if at < 0 else min(at, error.start)
        if at >= 0:
            raise _no_text(content, lo + at)
        yield text
        lo += len(block)


def _whole(content: Stored | Held, cut: int) -> int:
    """`cut`, or the byte before it with which the UTF-8 character begins that it would cut."""
    for at in range(cut, max(cut - 4, 0), -1):
        if content.read(at, at + 1)[0] & 0xC0 != 0x80:
            return at
    return cut


def _no_text(content: Stored | Held, at: int) -> UserError:
    mark = content.read(0, 2)
    if mark in (b"\xff\xfe", b"\xfe\xff"):
        why = f"it begins with {mark.hex(' ')}, as UTF-16 does: convert it (iconv -f UTF-16 -t UTF-8)"
    else:
        why = "convert it (iconv -f LATIN1 -t UTF-8, or from what it is; zero bytes are a sign of UTF-16)"
    return UserError(
        f"{content.place(at)} is {content.read(at, at + 1).hex()}, which is no UTF-8 text: {why}, or take "
        "--tokenizer bytes, for which bytes need no meaning"
    )


def _encoded(name: str, tokenizer: Tokenizer, pieces: Iterable[str], request: Request) -> np.ndarray:
    """Their tokens, in as few bytes each as the vocabulary allows."""
    dtype = np.uint16 if tokenizer.size <= 1 << 16 else np.int32
    parts, size = [np.empty(0, dtype)], 0
    for text in pieces:
        parts.append(tokenizer.encode(text).astype(dtype))
        size += parts[-1].nbytes
        request.require_memory(
            2 * size,
            f"{name}: its first {size // np.dtype(dtype).itemsize:,} tokens",
            "tokenize it once and give the token ids as a file (.bin or .npy), which is read where it lies",
        )
    return np.concatenate(parts)


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
    return text_data("python-docs", Held("python-docs", content), options, request)


def python_source(options: SourceCodeOptions, request: Request) -> Data:
    """The sources of this Python's standard library, without its tests, in the order of their paths."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = _walk(root, frozenset({".py"}), _SKIPPED)
    files = Stored(paths)
    if not len(files):
        raise UserError(
            f"--data python-source: no source files in {root}: choose --data python-docs or a path"
        )
    content = files.read(0, min(options.max_bytes, len(files)))
    if len(content) < len(files):
        content = content[: _whole(files, len(content))]
    return text_data("python-source", Held("python-source", content), options, request)


def text_file(path: Path, options: TextOptions, request: Request) -> Data:
    """Any file, read where it lies; one that is packed is refused, since no one means to learn that."""
    if path.suffix.lower() in PACKED:
        raise UserError(f"{path}: a packed file: unpack it first ({PACKED[path.suffix.lower()]})")
    content = Stored([path])
    if not len(content):
        raise UserError(f"{path}: the file is empty")
    return text_data(str(path), content, options, request)


def text_folder(path: Path, options: TextOptions, request: Request) -> Data:
    """All text files in and below a folder, in the order of their paths; hidden ones are passed over."""
    content = Stored(_walk(path, SUFFIXES, set()))
    if not len(content):
        raise UserError(
            f"{path}: no text in this folder: none of its files is a non-empty .txt, .md, .py, ..."
        )
    return text_data(str(path), content, options, request)


def _walk(root: Path, suffixes: frozenset[str], skipped: set[str]) -> list[Path]:
    """Files below `root` that end in one of `suffixes`, in the order of their relative POSIX paths."""
    found = []

    def refuse(error: OSError) -> None:
        raise error

    with reading(root):
        for folder, folders, files in os.walk(root, onerror=refuse):
            folders[:] = [f for f in folders if f not in skipped and not f.startswith(".")]
            within = os.path.relpath(folder, root)
            for name in files:
                if os.path.splitext(name)[1].lower() in suffixes and not name.startswith("."):
                    found.append(os.path.normpath(os.path.join(within, name)))
    return [root / name for name in sorted(found)]
