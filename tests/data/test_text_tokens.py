"""Characters, bytes and BPE, and windows of them."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from snn_extreme_quant.data import TextTokens, Windows, batch_order, collate, read_document, rows_of
from snn_extreme_quant.data.growing_text import GrowingText
from snn_extreme_quant.errors import ConfigError, DataError

TEXT = "Ünicode wörds,\nand more words;\n\n  indented words and words\n" * 30


@pytest.mark.parametrize("kind", ["characters", "bytes", "bpe"])
def test_text_comes_back(kind, tmp_path):
    pytest.importorskip("tokenizers")
    tokens = TextTokens.of(kind, TEXT, vocab=300)
    ids = tokens.encode(TEXT)
    assert ids.dtype == np.int32
    assert 0 <= ids.min() <= ids.max() < tokens.vocab
    assert tokens.decode(ids.tolist()) == TEXT
    tokens.save(tmp_path)
    again = TextTokens.load(tmp_path)
    assert (again.kind, again.vocab) == (kind, tokens.vocab)
    assert np.array_equal(again.encode(TEXT), ids)
    assert len(tokens.encode("")) == 0
    assert tokens.units("äb") == (3 if kind == "bytes" else 2)


def test_characters_that_were_not_there_are_one():
    tokens = TextTokens.of("characters", "hello")
    assert tokens.vocab == 5
    assert tokens.encode("hxé\U0001f600o").tolist() == [1, 4, 4, 4, 3]
    assert tokens.decode([1, 4]) == "h\ufffd"


def test_bytes_that_are_no_text():
    assert TextTokens.of("bytes").decode([0xC3, 65]) == "\ufffdA"


def test_bpe_is_the_same_in_pieces(monkeypatch):
    pytest.importorskip("tokenizers")
    tokens = TextTokens.of("bpe", TEXT, vocab=400)
    assert 257 < tokens.vocab <= 400
    whole = tokens.encode(TEXT)
    assert len(whole) < 0.6 * len(TEXT)
    monkeypatch.setattr("snn_extreme_quant.data.text_tokens._PIECE", 50)
    assert np.array_equal(tokens.encode(TEXT), whole)


def test_bpe_of_a_file(tmp_path):
    pytest.importorskip("tokenizers")
    tokens = TextTokens.of("bpe", TEXT, vocab=300)
    tokens.save(tmp_path)
    raw = (tmp_path / "tokenizer.json").read_bytes()
    (tmp_path / "t.json.gz").write_bytes(gzip.compress(raw))
    for path in (tmp_path / "tokenizer.json", tmp_path / "t.json.gz"):
        assert np.array_equal(TextTokens.of("bpe", path=path).encode(TEXT), tokens.encode(TEXT))
    (tmp_path / "bad.json").write_text("{}")
    for name in ("bad.json", "none.json"):
        with pytest.raises(DataError, match=name):
            TextTokens.of("bpe", path=tmp_path / name)


def test_mistakes(tmp_path):
    with pytest.raises(ConfigError, match="words"):
        TextTokens.of("words", TEXT)
    with pytest.raises(ConfigError, match="256"):
        TextTokens.of("bpe", TEXT, vocab=100)
    with pytest.raises(DataError, match=r"tokens.json"):
        TextTokens.load(tmp_path)
    (tmp_path / "tokens.json").write_text('{"format": "other"}')
    with pytest.raises(DataError, match=r"tokens.json"):
        TextTokens.load(tmp_path)
    with pytest.raises(DataError, match=r"no\.txt"):
        read_document(tmp_path / "no.txt")
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match="latin"):
        read_document(tmp_path / "latin.txt")


def test_documents_stay_as_they_are(tmp_path):
    for name, raw in (("a.txt", TEXT.encode()), ("a.txt.gz", gzip.compress(TEXT.encode()))):
        (tmp_path / name).write_bytes(raw)
        assert read_document(tmp_path / name) == TEXT


@pytest.mark.parametrize(("length", "context", "count"), [(8, 3, 2), (7, 3, 2), (6, 3, 1), (5, 4, 1), (100, 9, 11)])
def test_windows_predict_every_token_once(length, context, count):
    windows = Windows.of(np.arange(length, dtype=np.int32), context)
    assert len(windows) == count
    assert set(windows.lengths.tolist()) == {context + 1}
    predicted = []
    for rows in batch_order(windows.lengths, 4, [0]):
        batch = collate(windows, rows)
        assert batch.mask.all()
        assert (batch.ids[:, 1:] == batch.ids[:, :-1] + 1).all()
        predicted += batch.ids[:, 1:].flatten().tolist()
    assert sorted(predicted) == list(range(1, count * context + 1))


def test_a_text_shorter_than_a_window():
    with pytest.raises(DataError, match="fewer"):
        Windows.of(np.arange(4, dtype=np.int32), 4)


def test_rows():
    tokens = TextTokens.of("characters", "abc")
    rows = rows_of(["abcab", "c"], [1.0, 0.0], tokens, 3)
    assert rows.lengths.tolist() == [3, 1]
    assert collate(rows, np.array([1, 0])).ids.tolist() == [[2, 0, 0], [0, 1, 2]]
    with pytest.raises(DataError, match="row 1"):
        rows_of(["a", ""], [0.0, 1.0], tokens, 3)


def test_a_text_without_characters():
    tokens = TextTokens.of("characters", "")
    assert tokens.encode("ab").tolist() == [0, 0]
    assert tokens.encode("").tolist() == []
    assert tokens.decode([0]) == "\ufffd"


@pytest.mark.parametrize("kind", ["characters", "bytes", "bpe"])
def test_what_is_no_token_is_not_decoded(kind):
    pytest.importorskip("tokenizers")
    tokens = TextTokens.of(kind, TEXT, vocab=300)
    for ids in ([-1], [1.5], [[1]], *([] if kind == "bpe" else [[tokens.vocab]])):
        with pytest.raises(DataError, match="no token"):
            tokens.decode(ids)
    assert tokens.decode([]) == ""
    with pytest.raises(ConfigError, match="streams=0"):
        tokens.parts(TEXT, 0)


def test_a_damaged_gz_is_said(tmp_path):
    whole = bytearray(gzip.compress(TEXT.encode()))
    whole[15:25] = b"\xff" * 10
    (tmp_path / "text.txt.gz").write_bytes(whole)
    with pytest.raises(DataError, match=r"text\.txt\.gz cannot be read as text"):
        read_document(tmp_path / "text.txt.gz")


# Texts that are shown while they are made.


def decoded(tokens, monkeypatch):
    """Count how many tokens are decoded."""
    lengths, decode = [], tokens.decode

    def counted(ids):
        lengths.append(len(ids))
        return decode(ids)

    monkeypatch.setattr(tokens, "decode", counted)
    return lengths


@pytest.mark.parametrize("kind", ["characters", "bytes", "bpe"])
@pytest.mark.parametrize("what", ["text", "noise", "no text"])
def test_a_growing_text_is_the_text_at_a_cost_that_does_not_grow(kind, what, monkeypatch):
    pytest.importorskip("tokenizers")
    text = "Ünicode wörds,\n 東京\U0001f600 and\u2028 \ufffd more  words;\r\n\t" * 40
    tokens = TextTokens.of(kind, text, vocab=300)
    ids = {
        "text": tokens.encode(text).tolist(),
        "noise": np.random.default_rng(0).integers(0, tokens.vocab, 3000).tolist(),
        # Bytes of characters that never end; BPE's first 256 tokens are bytes, in an order of its own.
        "no text": [token for token in range(tokens.vocab) if tokens.decode([token]) == "\ufffd"][-60:] * 50,
    }[what]
    wanted, lengths = tokens.decode(ids), decoded(tokens, monkeypatch)
    growing = GrowingText(tokens)
    pieces = [growing.add(token) for token in ids]
    assert "".join(pieces) + growing.rest() == wanted
    assert growing.rest() == ""
    assert sum(lengths) < 100 * len(ids)
    if what == "text" and kind != "bpe":
        shown = [len("".join(pieces[:place])) for place in range(len(ids))]
        assert all(len(tokens.decode(ids[:place])) - length <= 1 for place, length in enumerate(shown))


def test_decoders_that_look_back_are_shown_too():
    """One that drops the space before the first word gives another text from a place on."""
    tokenizers = pytest.importorskip("tokenizers")
    words = {f"\u2581w{number}": number for number in range(50)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="\u2581w0"))
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    tokens, ids = TextTokens("bpe", tokenizer=tokenizer), np.random.default_rng(0).integers(0, 50, 500).tolist()
    growing = GrowingText(tokens)
    assert "".join(growing.add(token) for token in ids) + growing.rest() == tokens.decode(ids)
    assert len(growing._last) < 100
