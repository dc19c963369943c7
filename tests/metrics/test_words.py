"""Texts as numbers, against Python's own split, sets and dicts."""

import random

import numpy as np
import pytest

from metrics import words as module
from metrics.texts import texts_of
from metrics.words import at_whitespace, encode, kinds, lowered, ngrams_up_to, numbered, ranges

TEXTS = ["a b a", "", "  a", "b\tc d", "\u00a0", "A b a", "\ud800 x", "a b a", "\u03a3 b\u03a3"]


def told(words):
    """The words of each text as Python texts."""
    bounds = words.bounds_T1.tolist()
    named = [words.vocabulary[number] for number in words.ids_W.tolist()]
    return [named[start:stop] for start, stop in zip(bounds, bounds[1:], strict=False)]


@pytest.mark.parametrize("chunk", [1, 2, 8192])
def test_words_are_those_of_split(monkeypatch, chunk):
    monkeypatch.setattr(module, "CHUNK", chunk)
    sides = encode(texts_of(TEXTS), texts_of(TEXTS[::-1]))
    assert told(sides[0]) == [text.split(" ") for text in TEXTS]
    assert told(sides[1]) == [text.split(" ") for text in TEXTS[::-1]]
    split = at_whitespace(sides)
    assert told(split[0]) == [text.split() for text in TEXTS]
    assert told(split[1]) == [text.split() for text in TEXTS[::-1]]
    assert told(lowered(split)[0]) == [text.lower().split() for text in TEXTS]
    assert told(split[0].part(2, 5)) == [text.split() for text in TEXTS[2:5]]


def test_texts_with_single_blanks_are_not_split_again():
    sides = encode(texts_of(["a b", "c"]), texts_of(["a"]))
    assert at_whitespace(sides)[0] is sides[0]


def test_no_texts_have_no_words():
    (words,) = at_whitespace(encode(texts_of([])))
    assert (len(words.ids_W), words.bounds_T1.tolist()) == (0, [0])
    assert kinds(words).tolist() == []


def test_texts_are_of_one_kind_when_their_words_are_equal():
    assert kinds(at_whitespace(encode(texts_of(TEXTS)))[0]).tolist() == [0, 1, 2, 3, 1, 4, 5, 0, 6]


@pytest.mark.parametrize("part", [3, 2**16])
def test_equal_keys_get_equal_numbers(monkeypatch, part):
    monkeypatch.setattr(module, "PART", part)
    keys = np.random.default_rng(0).integers(0, 2**60, 40)[np.random.default_rng(1).integers(0, 40, 300)]
    numbers = numbered(keys)
    assert len({*zip(keys.tolist(), numbers.tolist(), strict=True)}) == len(set(keys.tolist()))
    assert sorted(set(numbers.tolist())) == list(range(len(set(keys.tolist()))))


@pytest.mark.parametrize("grouped", [True, False])
def test_ngrams_have_one_type_where_they_are_equal_within_a_group(grouped):
    rng = random.Random(0)
    texts = [" ".join(rng.choices("abc", k=rng.randint(0, 6))) for _ in range(40)]
    (words,) = at_whitespace(encode(texts_of(texts)))
    groups = np.array([rng.randrange(4) for _ in texts])
    for order, grams in enumerate(ngrams_up_to(3, words, groups if grouped else None), start=1):
        expected = [
            (text, (groups[text] if grouped else 0, *own.split()[start : start + order]))
            for text, own in enumerate(texts)
            for start in range(len(own.split()) - order + 1)
        ]
        assert grams.texts_G.tolist() == [text for text, _ in expected]
        pairs = {*zip(grams.types_G.tolist(), (gram for _, gram in expected), strict=True)}
        assert len(pairs) == len({kind for kind, _ in pairs}) == len({gram for _, gram in pairs})


def test_ranges_follow_each_other():
    assert ranges(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
