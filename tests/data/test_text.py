import builtins
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from mpidp.data import Request, load, token_files
from mpidp.data.text import SourceCodeOptions, TextOptions
from mpidp.data.token_files import TokenOptions
from mpidp.data.windows import Windows
from mpidp.errors import UserError

SHORT = Request(context=4, validation_fraction=0.25)


def content(data) -> bytes:
    """The text of a part, as its windows' inputs show it."""
    x, _ = data.batch(np.arange(len(data)))
    return x.astype(np.uint8).tobytes()


def test_windows_by_hand():
    windows = Windows(np.arange(10, dtype=np.uint8), 3)
    assert len(windows) == 3 and windows.labels is None
    x, y = windows.batch(np.array([2, 0]))
    assert x.tolist() == [[6, 7, 8], [0, 1, 2]] and y.tolist() == [[7, 8, 9], [1, 2, 3]]
    for array in (x, y):
        assert array.dtype == np.int32 and array.flags.c_contiguous and array.flags.owndata


@pytest.mark.parametrize("n", range(4, 14))
def test_windows_use_every_token_that_fits(n):
    windows = Windows(np.arange(n), 3)
    assert len(windows) == (n - 1) // 3
    _, y = windows.batch(np.arange(len(windows)))
    assert y.ravel().tolist() == list(range(1, 3 * len(windows) + 1))


def test_an_empty_batch_has_the_right_shape():
    x, y = Windows(np.arange(10), 3).batch(np.empty(0, np.int64))
    assert x.shape == y.shape == (0, 3)


def test_batches_are_fresh():
    windows = Windows(np.arange(10), 3)
    x, _ = windows.batch(np.array([0]))
    x[:] = 99
    assert windows.batch(np.array([0]))[0].tolist() == [[0, 1, 2]]


def test_the_validation_part_is_the_tail(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(bytes(range(100)))
    data = load(str(path), None, SHORT)
    assert data.schema.kind == "tokens" and data.schema.inputs == (4,) and data.schema.outputs == 256
    assert data.name == str(path) and data.truth == {}
    assert content(data.train) == bytes(range(72))  # 75 tokens: (75 - 1) // 4 = 18 windows
    assert content(data.validation) == bytes(range(75, 99))
    assert data.train.batch(np.array([17]))[1].max() < 75  # nor do the targets overlap


def test_a_file_is_mapped_and_not_read(tmp_path):
    path = tmp_path / "big.txt"
    with open(path, "wb") as file:
        file.truncate(1 << 36)  # 64 GiB, all hole
    data = load(str(path), None, Request(context=1024))
    x, y = data.train.batch(np.array([len(data.train) - 1]))
    assert x.shape == (1, 1024) and x.sum() == y.sum() == 0


def test_python_docs_is_english_and_the_same_every_time():
    data, again = load("python-docs", None, Request()), load("python-docs", None, Request())
    assert data.schema.inputs == (128,) and len(data.train) + len(data.validation) > 2000
    text = data.tokenizer.decode(np.frombuffer(content(data.train), np.uint8))
    assert 'The "assert" statement' in text and text.count(" the ") > 1000
    assert data.fingerprint() == again.fingerprint()


def test_python_docs_missing_says_what_to_do(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("pydoc_data"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"lacks pydoc_data\.topics.*--data python-source"):
        load("python-docs", None, Request())


def test_python_source_reads_no_more_than_asked():
    data = load("python-source", SourceCodeOptions(max_bytes=100_000), Request(context=9))
    assert 9 * (len(data.train) + len(data.validation)) <= 100_000 - 2
    assert len(data.train) + len(data.validation) >= (100_000 - 20) // 9
    first = sorted(p.name for p in Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[0]
    assert content(data.train)[:50] == (Path(sysconfig.get_paths()["stdlib"]) / first).read_bytes()[:50]


def test_python_source_missing_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(UserError, match=f"no source files in {tmp_path}"):
        load("python-source", None, Request())


def test_a_folder_is_its_text_files_in_order(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "c.txt").write_text("hidden")
    (tmp_path / ".d.txt").write_text("hidden")
    (tmp_path / "b" / "a.md").write_text("second " * 5)
    (tmp_path / "a.txt").write_text("first " * 5)
    (tmp_path / "c.RST").write_text("third " * 5)
    (tmp_path / "b" / "z.png").write_bytes(b"\x89PNG")
    (tmp_path / "e.txt").write_text("")
    data = load(str(tmp_path), None, Request(context=1, validation_fraction=0.01))
    whole = ("first " * 5 + "\n" + "second " * 5 + "\n" + "third " * 5).encode()
    assert content(data.train) == whole[:-3]  # the last token before the tail is a target alone


def test_a_folder_without_text_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match="no text in this folder"):
        load(str(tmp_path), None, Request())


@pytest.mark.parametrize("n", [1, 9])
def test_text_shorter_than_two_windows_is_refused(tmp_path, n):
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * n)
    with pytest.raises(UserError, match=rf"a\.txt: {n} tokens are too few .* at least 5 tokens"):
        load(str(path), None, SHORT)
    path.write_bytes(b"x" * 10)
    data = load(str(path), None, SHORT)
    assert len(data.train) == len(data.validation) == 1


def test_bpe_learns_from_the_training_part_alone(tmp_path):
    pytest.importorskip("tokenizers", reason="needs the extra 'text'")
    path = tmp_path / "a.txt"
    path.write_text("abc abc abc " * 300 + "xyz xyz xyz " * 100)
    data = load(str(path), TextOptions(tokenizer="bpe", bpe_vocabulary=270), SHORT)
    merged = data.tokenizer.inner.get_vocab()
    assert "Ġabc" in merged and not any("xy" in token for token in merged)
    assert data.schema.outputs == data.tokenizer.size <= 270
    x, y = data.train.batch(np.arange(5))
    assert data.tokenizer.decode(x[0]) == "abc abc abc abc" and (x[:, 1:] == y[:, :-1]).all()


def test_bpe_never_cuts_a_character(tmp_path):
    pytest.importorskip("tokenizers", reason="needs the extra 'text'")
    path = tmp_path / "a.txt"
    for extra in range(3):
        path.write_text("x" * extra + "漢" * 400)
        data = load(str(path), TextOptions(tokenizer="bpe", bpe_vocabulary=257), SHORT)
        parts = [data.tokenizer.decode(part.tokens) for part in (data.train, data.validation)]
        assert "".join(parts) == "x" * extra + "漢" * 400


def test_a_tokenizer_by_path(tmp_path):
    pytest.importorskip("tokenizers", reason="needs the extra 'text'")
    path = tmp_path / "a.txt"
    path.write_text("abc abc abc " * 300)
    one = load(str(path), TextOptions(tokenizer="bpe", bpe_vocabulary=260), SHORT)
    (tmp_path / "t.json").write_text(one.tokenizer.to_json())
    two = load(str(path), TextOptions(tokenizer=str(tmp_path / "t.json")), SHORT)
    assert (two.train.tokens == one.train.tokens).all() and two.schema == one.schema


def test_too_few_tokens_after_tokenizing_is_refused(tmp_path):
    pytest.importorskip("tokenizers", reason="needs the extra 'text'")
    path = tmp_path / "a.txt"
    path.write_text("abc abc abc " * 20)
    with pytest.raises(
        UserError, match=r"\d+ validation tokens are fewer than one window of 41 \(--context 40"
    ):
        load(str(path), TextOptions(tokenizer="bpe", bpe_vocabulary=300), Request(context=40))


def test_an_unknown_tokenizer_lists_the_known():
    with pytest.raises(
        UserError, match="--tokenizer wordpiece: no such tokenizer or file; known: bytes, bpe"
    ):
        load("python-docs", TextOptions(tokenizer="wordpiece"), Request())


def test_an_option_of_another_tokenizer_is_refused():
    with pytest.raises(
        UserError, match="--bpe-vocabulary goes with --tokenizer bpe, not with --tokenizer bytes"
    ):
        load("python-docs", TextOptions(bpe_vocabulary=300), Request())


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "i4", "i8", "u8"])
def test_token_files(tmp_path, dtype):
    path = tmp_path / "tokens.npy"
    np.save(path, np.arange(40).astype(dtype) % 17)
    data = load(str(path), None, SHORT)
    assert data.schema.outputs == 17 and data.tokenizer is None
    assert len(data.train) == 7 and len(data.validation) == 2
    assert data.train.batch(np.array([1]))[0].tolist() == [[4, 5, 6, 7]]


def test_token_files_with_a_decoder(tmp_path):
    path, decoder = tmp_path / "tokens.npy", tmp_path / "bytes.json"
    decoder.write_text('{"type": "bytes"}')
    np.save(path, np.frombuffer(b"hello world, hello mpi", np.uint8))
    data = load(str(path), TokenOptions(decoder=str(decoder)), SHORT)
    assert (
        data.schema.outputs == 256 and data.tokenizer.decode(data.train.batch(np.array([0]))[0][0]) == "hell"
    )
    np.save(path, np.arange(300))
    with pytest.raises(UserError, match="token 256 is 256: beyond the 256 tokens of --decoder"):
        load(str(path), TokenOptions(decoder=str(decoder)), SHORT)


@pytest.mark.parametrize("block", [4, 1 << 22])
def test_negative_and_huge_token_ids_are_refused(tmp_path, monkeypatch, block):
    monkeypatch.setattr(token_files, "BLOCK", block)
    path = tmp_path / "tokens.npy"
    tokens = np.arange(40)
    tokens[31] = -5
    np.save(path, tokens)
    with pytest.raises(UserError, match=r"tokens\.npy: token 31 is -5: token ids must not be negative"):
        load(str(path), None, SHORT)
    tokens[31] = 2**31
    np.save(path, tokens)
    with pytest.raises(UserError, match="token 31 is 2147483648: too large: ids must be below"):
        load(str(path), None, SHORT)
