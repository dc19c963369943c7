"""Phrases in many texts at once, against `PhraseMatcher`, which reads one text word by word."""

import random

import numpy as np
import pytest

from metrics import mentions as module
from metrics.diversity import corpus_words
from metrics.mentions import Mentions, Phrases
from metrics.phrases import PhraseMatcher
from metrics.texts import texts_of
from metrics.words import lowered


def found(phrases, texts):
    """(concepts, words covered) of each text."""
    (words,) = lowered([corpus_words(texts_of(texts))])
    mentions, covered = Phrases(phrases, words.vocabulary).found(words)
    sets = [set() for _ in texts]
    for text, concept in zip(mentions.texts_M.tolist(), mentions.concepts_M.tolist(), strict=True):
        sets[text].add(concept)
    return [*zip(sets, covered.tolist(), strict=True)]


@pytest.mark.parametrize(("longest", "chunk"), [(1, 8192), (2, 3), (4, 8192)])
def test_what_is_found_is_what_the_matcher_finds(monkeypatch, longest, chunk):
    monkeypatch.setattr(module, "CHUNK", chunk)
    rng = random.Random(longest)
    for _ in range(100):
        phrases = [" ".join(rng.choices("abcB", k=rng.randint(0, longest))) for _ in range(rng.randint(0, 8))]
        texts = [" ".join(rng.choices("abcAd", k=rng.randint(0, 12))) for _ in range(20)]
        matcher = PhraseMatcher(phrases)
        assert found(phrases, texts) == [(matcher.find(text), matcher.covered(text)) for text in texts]


def test_a_phrase_does_not_reach_into_the_next_text():
    assert found(["a b"], ["a", "b", "a b"]) == [(set(), 0), (set(), 0), ({0}, 2)]


def test_mentions_are_compared_text_by_text():
    ours, theirs = Mentions.of([{0, 1}, set(), {2}]), Mentions.of([{1, 5}, {0}, {2}])
    assert ours.common(theirs).tolist() == [1, 0, 1]
    assert ours.sizes_T.tolist() == [2, 0, 1]
    assert ours.also_in(np.array([1, 1, 0]), theirs).tolist() == [True, False, False]
    assert Mentions.once(3, np.array([2, 0, 2]), np.array([7, 1, 7])).concepts_M.tolist() == [1, 7]
