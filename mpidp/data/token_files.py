"""Files of token ids, read where they lie."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpidp.data.files import reading
from mpidp.data.npy import npy_header
from mpidp.data.schema import Data, Request
from mpidp.data.stored import Stored, StoredArray
from mpidp.data.tokenizer import Tokenizer, read_tokenizer
from mpidp.data.windows import token_data, windows
from mpidp.errors import UserError
from mpidp.options import option

BLOCK = 1 << 22  # tokens looked at together
TYPES = {"uint16": "<u2", "uint32": "<u4"}
PARTS = ("train.bin", "val.bin")
LLM_C = 20240520  # first number of llm.c's token files (Karpathy 2024): 256 int32, then uint16 ids
LLM_C_HEADER = 1024


@dataclass
class TokenOptions:
    """Where the ids of a token file come from."""

    decoder: str | None = option(None, "the tokenizers JSON file that wrote the token ids, to show text")


@dataclass
class BinOptions(TokenOptions):
    """What the numbers of a .bin file are."""

    token_type: str = option(
        "uint16", "type of the token ids in a .bin file, lowest byte first", choices=TYPES
    )


def token_file(path: Path, options: TokenOptions, request: Request) -> Data:
    """A `.npy` of token ids (integers, one dimension).

    The vocabulary is that of --decoder, or else the largest id + 1.
    """
    header = npy_header(path)
    stored = Stored([path])
    tokens = StoredArray(stored, header.dtype, header.skip, 0, header.shape[0])
    tokenizer, vocabulary = _vocabulary([(path, tokens)], options)
    return token_data(str(path), tokens, tokenizer, vocabulary, request, stored.digest())


def bin_file(path: Path, options: BinOptions, request: Request) -> Data:
    """Token ids and nothing else, as nanoGPT writes them, or behind llm.c's header; see `token_file`."""
    stored, tokens = _bin(path, options)
    tokenizer, vocabulary = _vocabulary([(path, tokens)], options)
    return token_data(str(path), tokens, tokenizer, vocabulary, request, stored.digest())


def bin_folder(path: Path, options: BinOptions, request: Request) -> Data:
    """train.bin and val.bin, each as `bin_file`."""
    parts = [(path / name, *_bin(path / name, options)) for name in PARTS]
    tokenizer, vocabulary = _vocabulary([(file, tokens) for file, _, tokens in parts], options)
    content = " ".join(stored.digest() for _, stored, _ in parts)
    return windows(str(path), parts[0][2], parts[1][2], tokenizer, vocabulary, request, content)


def has_bins(folder: Path) -> bool:
    """Whether this folder is one for `bin_folder`."""
    with reading(folder):
        return all((folder / name).exists() for name in PARTS)


def _bin(path: Path, options: BinOptions) -> tuple[Stored, StoredArray]:
    stored = Stored([path])
    dtype = np.dtype(TYPES[options.token_type])
    skip, size = 0, len(stored)
    if size >= LLM_C_HEADER:
        magic, version, count = np.frombuffer(stored.read(0, 12), "<i4").tolist()
        if magic == LLM_C:
            if version != 1 or 2 * count + LLM_C_HEADER != size or options.token_type != "uint16":
                raise UserError(
                    f"{path}: the header of an llm.c file of {count:,} uint16 tokens (version {version}), with "
                    f"{size - LLM_C_HEADER:,} bytes behind it: damaged, or not read as uint16"
                )
            skip = LLM_C_HEADER
    if size % dtype.itemsize or size == 0:
        raise UserError(
            f"{path}: {size:,} bytes are no whole number of {options.token_type} token ids (--token-type): is it "
            "truncated, or no file of token ids?"
        )
    return stored, stored.array(dtype, skip)


def _vocabulary(files: list[tuple[Path, StoredArray]], options: TokenOptions) -> tuple[Tokenizer | None, int]:
    """Looks at every id, some at a time. Raises UserError for the first that is none."""
    tokenizer = read_tokenizer(options.decoder) if options.decoder is not None else None
    limit = tokenizer.size if tokenizer else 2**31
    largest = -1
    for path, tokens in files:
        for start in range(0, len(tokens), BLOCK):
            block = tokens.rows(np.array([start]), min(BLOCK, len(tokens) - start))[0]
            wrong = (block < 0) | (block >= limit)
            if wrong.any():
                at = int(np.argmax(wrong))
                why = "token ids must not be negative" if block[at] < 0 else (
                    f"beyond the {limit} tokens of --decoder {options.decoder}" if tokenizer
                    else "too large: ids must be below 2³¹"
                )  # fmt: skip
                raise UserError(f"{path}: token {start + at} is {block[at]}: {why}")
            largest = max(largest, int(block.max()))
    return tokenizer, tokenizer.size if tokenizer else largest + 1
