from __future__ import annotations

import numpy as np
import pytest
import torch

from snn_extreme_quant.data import Rows, Sentences, collate
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.models.bert.teacher import load_teacher, load_tokenizer
from snn_extreme_quant.training.augmentation import Augmenter, Vocabulary, nearest_words
from snn_extreme_quant.training.recipe import Augment
from tests.tiny_bert import WORDS, save_teacher

TEXTS = ["good film and it is a great plot", "the dull cast was poor", "fine", "bad plot and a bad cast"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = save_teacher(tmp_path_factory.mktemp("teacher"))
    tokenizer = load_tokenizer(folder)
    rows = Rows(TEXTS, [*TEXTS[1:], "it is fine"], [0.0, 1.0, 0.0, 1.0])
    sentences = Sentences.tokenise(rows, tokenizer, 24)
    table = load_teacher(folder).get_input_embeddings().weight.detach()
    return tokenizer, table, sentences


def augmenter(parts, probability=1.0, **options):
    tokenizer, table, sentences = parts
    given = {"replace": 0.0, "delete": 0.0, "swap": 0.0, **options}
    return Augmenter.of(tokenizer, table, sentences, Augment(**given), probability)


def altered(parts, seed=(0, 0, 0), **options):
    before = collate(parts[2], np.arange(4))
    return before, augmenter(parts, **options)(before, seed)


def segments(batch, row, tokenizer):
    """Words of each segment, by what its tokens are."""
    ids = batch.ids[row][batch.mask[row].bool()].tolist()
    tokens = tokenizer.convert_ids_to_tokens(ids)
    types = batch.types[row][batch.mask[row].bool()].tolist()
    assert tokens[0] == "[CLS]"
    assert tokens[-1] == "[SEP]"
    assert tokens.count("[SEP]") == 2
    cut = tokens.index("[SEP]")
    assert types == [0] * (cut + 1) + [1] * (len(tokens) - cut - 1)
    return tokens[1:cut], tokens[cut + 1 : -1]


def test_replaced_words_are_neighbours_of_what_was_there(parts):
    tokenizer, table, _ = parts
    before, after = altered(parts, replace=0.9, neighbours=3)
    cosine = torch.nn.functional.normalize(table, dim=-1) @ torch.nn.functional.normalize(table, dim=-1).mT
    words = torch.tensor([tokenizer.convert_tokens_to_ids(word) for word in WORDS])
    changed = 0
    for row in range(4):
        for old, new in zip(segments(before, row, tokenizer), segments(after, row, tokenizer), strict=True):
            assert len(old) == len(new)
            for one, other in zip(old, new, strict=True):
                number = tokenizer.convert_tokens_to_ids(one)
                near = sorted(words[words != number].tolist(), key=lambda w, n=number: -cosine[n, w])[:3]
                assert other == one or tokenizer.convert_tokens_to_ids(other) in near
                changed += other != one
    total = int(before.mask.sum()) - 12
    assert 0.6 * total < changed <= total


def test_deleted_words_leave_one_in_each_segment(parts):
    tokenizer = parts[0]
    before, after = altered(parts, delete=0.95)
    for row in range(4):
        for old, new in zip(segments(before, row, tokenizer), segments(after, row, tokenizer), strict=True):
            left = iter(old)
            assert all(word in left for word in new)  # in their order
            assert new
    assert after.mask.sum() < 0.6 * before.mask.sum()
    assert after.ids.shape[1] == after.mask.sum(1).max()


def test_swapped_words_move_by_one_place(parts):
    tokenizer = parts[0]
    before, after = altered(parts, swap=0.5)
    moved = 0
    for row in range(4):
        for old, new in zip(segments(before, row, tokenizer), segments(after, row, tokenizer), strict=True):
            assert sorted(old) == sorted(new)
            place = 0
            while place < len(old):
                if old[place] != new[place]:
                    assert old[place : place + 2] == new[place : place + 2][::-1]
                    moved += 1
                    place += 1
                place += 1
    assert moved > 1


def test_what_becomes_of_a_sentence_depends_on_nothing_but_seed_and_number(parts):
    sentences = parts[2]
    change = augmenter(parts, probability=0.7, replace=0.3, delete=0.2, swap=0.2)
    whole = change(collate(sentences, np.arange(4)), (3, 1, 2))
    for rows in ([2, 0], [1], [3, 2]):
        part = change(collate(sentences, np.array(rows)), (3, 1, 2))
        for mine, row in enumerate(rows):
            kept = part.mask[mine].bool()
            assert torch.equal(part.ids[mine][kept], whole.ids[row][whole.mask[row].bool()])
    other = change(collate(sentences, np.arange(4)), (3, 1, 3))
    assert other.ids.shape != whole.ids.shape or not torch.equal(other.ids, whole.ids)
    assert torch.equal(whole.labels, collate(sentences, np.arange(4)).labels)


def test_the_probability_is_that_of_a_sentence(parts):
    sentences = parts[2]
    before = collate(sentences, np.arange(4))
    change = augmenter(parts, probability=0.25, swap=0.9)
    rates = [
        float(np.mean([not torch.equal(a, b) for a, b in zip(change(before, (seed,)).ids, before.ids, strict=True)]))
        for seed in range(60)
    ]
    assert 0.12 < np.mean(rates) < 0.4
    never = augmenter(parts, probability=0.0, swap=0.9)(before, (0,))
    assert torch.equal(never.ids, before.ids)


def test_pieces_stay_with_their_word():
    class Tokenizer:
        all_special_ids = (0, 1, 2)
        unk_token_id = 2
        names = ("[CLS]", "[SEP]", "[UNK]", "[unused1]", "play", "##ing", "##s", "run", "fast")

        def __len__(self):
            return len(self.names)

        def convert_ids_to_tokens(self, ids):
            return [self.names[i] for i in ids]

    vocabulary = Vocabulary.of(Tokenizer(), 11)
    assert np.flatnonzero(vocabulary.fixed).tolist() == [0, 1]
    assert np.flatnonzero(vocabulary.pieces).tolist() == [5, 6]
    assert np.flatnonzero(vocabulary.words).tolist() == [4, 7, 8]
    table = torch.eye(11)
    nearest = nearest_words(table, vocabulary.words, np.array([4, 7]), 15)
    assert sorted(nearest[4].tolist()) == [7, 8]
    assert nearest[8].tolist() == [-1, -1]
    ids, types = np.array([0, 4, 5, 6, 7, 2, 1]), np.zeros(7, np.int64)
    change = Augmenter(vocabulary, nearest, Augment(replace=0.9, delete=0.3, swap=0.4), 1.0)
    for seed in range(50):
        found = change.alter(ids, types, np.random.default_rng(seed))[0].tolist()
        assert (found[0], found[-1]) == (0, 1)
        text = " ".join(Tokenizer().convert_ids_to_tokens(found))
        assert "##" not in text.replace("play ##ing ##s", "")  # a word of pieces is neither split nor replaced


def test_without_replacing_no_word_needs_a_neighbour(parts):
    tokenizer, table, sentences = parts
    few = Vocabulary(np.zeros(20, bool), np.zeros(20, bool), np.arange(20) == 7)
    with pytest.raises(ConfigError, match=r"replace=0.1: the teacher's vocabulary has 1 words"):
        few.check(Augment(replace=0.1))
    few.check(Augment(replace=0.0))
    swaps = Augmenter.of(tokenizer, table, sentences, Augment(replace=0.0, swap=0.5), 1.0)
    assert (swaps.nearest == -1).all()
