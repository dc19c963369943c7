"""Self-BLEU against NLTK, and its values without each text against computing them anew."""

import random

import numpy as np
import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from metrics.diversity import corpus_words
from metrics.self_bleu import self_bleu
from metrics.texts import texts_of

TEXTS = [
    "the room was very clean and nice",
    "the room was clean",
    "",
    "pool",
    "the pool was very very clean",
    "a b c d e f",
]


def by_nltk(texts):
    smooth, split = SmoothingFunction().method1, [text.split() for text in texts]
    scores = [
        sentence_bleu(split[:i] + split[i + 1 :], words, smoothing_function=smooth) for i, words in enumerate(split)
    ]
    return 100 * np.mean(scores)


def test_it_is_that_of_nltk():
    assert self_bleu(corpus_words(texts_of(TEXTS))).value == pytest.approx(by_nltk(TEXTS), abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_values_without_a_text_are_those_of_the_other_texts(seed):
    """Short texts of few words: shared n-grams, and lengths that one text alone has, decide here."""
    rng = random.Random(seed)
    texts = [" ".join(rng.choices("abcdef", k=rng.choice([0, 2, 3, 4, 5, 7, 9, 12, 15]))) for _ in range(4 + 5 * seed)]
    found = self_bleu(corpus_words(texts_of(texts)))
    others = [by_nltk(texts[:i] + texts[i + 1 :]) for i in range(len(texts))]
    assert found.without_N == pytest.approx(others, abs=1e-9)


def test_equal_texts_have_the_highest():
    found = self_bleu(corpus_words(texts_of(["a b c d e"] * 3)))
    assert found.value == pytest.approx(100)
    assert found.interval() is None
    assert self_bleu(corpus_words(texts_of(["a b"]))) is None


def test_the_interval_covers_the_mean_over_samples_at_least_as_often_as_it_says():
    rng = np.random.default_rng(1)
    shares = 1 / np.arange(1, 60)
    shares /= shares.sum()

    def sample():
        words = rng.choice(len(shares), size=(80, 9), p=shares)
        return self_bleu(corpus_words(texts_of([" ".join(map(str, row[: rng.integers(3, 9)])) for row in words])))

    truth = np.mean([sample().value for _ in range(300)])
    bounds = [sample().interval() for _ in range(150)]
    assert np.mean([low <= truth <= high for low, high in bounds]) >= 0.92
