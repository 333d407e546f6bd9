import json
import sys

import numpy as np
import pytest

from mpidp.data.tokenizer import Bytes, read_tokenizer, tokenizer_from_json, train_bpe
from mpidp.errors import UserError

TEXT = "The cat sat on the mat; the cat – naïve as ever – sat still.\n" * 30


def test_bytes_are_the_utf8_bytes():
    ids = Bytes().encode("aé\n")
    assert ids.dtype == np.int32 and ids.tolist() == [97, 0xC3, 0xA9, 10]
    assert Bytes().decode(ids) == "aé\n" and Bytes.size == 256


def test_bytes_show_what_is_no_text_as_replacement():
    assert Bytes().decode([97, 0xC3, 98]) == "a\ufffdb"
    assert Bytes().decode([97, 256, 50257, -1, 98]) == "a\ufffd\ufffd\ufffdb"
    assert Bytes().decode([]) == ""


def test_bytes_round_trip_through_json():
    assert isinstance(tokenizer_from_json(Bytes().to_json()), Bytes)


def test_bpe_encodes_any_text_in_fewer_tokens():
    pytest.importorskip("tokenizers", reason="needs the extra 'text'")
    bpe = train_bpe([TEXT], 300)
    ids = bpe.encode(TEXT)
    assert ids.dtype == np.int32 and 256 < bpe.size <= 300
    assert len(ids) < len(TEXT.encode()) / 3 and ids.min() >= 0 and ids.max() < bpe.size
    for text in (TEXT, "漢字 and\ttabs\r\n\n  spaces  ", "", "\x00\x7f"):
        assert bpe.decode(bpe.encode(text)) == text
    assert bpe.decode([bpe.size, -1, *bpe.encode("cat")]) == "cat"


def test_bpe_is_the_same_on_every_rank_and_survives_json(tmp_path):
    pytest.importorskip("tokenizers", reason="needs the extra 'text'")
    one, two = train_bpe([TEXT], 320), train_bpe([TEXT], 320)
    assert one.to_json() == two.to_json()
    path = tmp_path / "tokenizer.json"
    path.write_text(one.to_json())
    again = read_tokenizer(str(path))
    assert (again.encode(TEXT) == one.encode(TEXT)).all()
    assert (again.size, again.name, again.to_json()) == (one.size, str(path), one.to_json())


def test_long_texts_are_encoded_in_pieces(monkeypatch):
    pytest.importorskip("tokenizers", reason="needs the extra 'text'")
    bpe = train_bpe([TEXT], 300)
    monkeypatch.setattr("mpidp.data.tokenizer._PIECE", 100)
    assert bpe.decode(bpe.encode(TEXT + "no end of line")) == TEXT + "no end of line"


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(
        UserError, match=r"--tokenizer bpe needs the tokenizers library: pip install 'mpidp\[text\]'"
    ):
        train_bpe([TEXT], 300)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "the file is empty"),
        (b"\xff\xfe", "not a UTF-8 text file"),
        (b"{", "JSON error"),
        (json.dumps({"model": 3}).encode(), "not a file of the tokenizers library"),
    ],
)
def test_what_is_no_tokenizer_is_refused(tmp_path, content, message):
    if "library" in message:
        pytest.importorskip("tokenizers", reason="needs the extra 'text'")
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_tokenizer(str(path))
    assert str(path) in str(caught.value)
