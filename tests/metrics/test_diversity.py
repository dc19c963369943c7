import random

import numpy as np
import pytest

from metrics.diversity import corpus_diversity, corpus_words, distinct_char_prag, distinct_corpus, distinct_sentence
from metrics.texts import texts_of
from metrics.words import kinds

TEXTS = ["a b a b", "a b", "c", ""]  # 7 words of 3 kinds; bigrams ab ba ab | ab


def test_corpus_distinct_pools_the_n_grams_of_all_texts():
    assert distinct_corpus(TEXTS, 1) == pytest.approx(100 * 3 / 7)
    assert distinct_corpus(TEXTS, 2) == pytest.approx(100 * 2 / 4)


def test_sentence_distinct_is_a_share_within_each_text():
    words = np.array([len(text.split()) for text in TEXTS])
    assert distinct_sentence(np.array([2, 2, 1, 0]), words, 1) == pytest.approx([50, 100, 100, 0])
    assert distinct_sentence(np.array([2, 1, 0, 0]), words, 2) == pytest.approx([100 * 2 / 3, 100, 0, 0])


def test_distinct_counts_words_and_not_characters():
    assert distinct_corpus(["aa aa"], 1) == 50


def test_corpus_distinct_of_nothing_is_zero():
    assert distinct_corpus(["", ""], 1) == 0


def by_name(texts):
    words = corpus_words(texts_of(texts))
    return {found.name: found for found in corpus_diversity(words, kinds(words))}


def test_texts_are_the_same_when_their_words_are():
    assert by_name(["a b", "a  b ", "b a", "A b"])["usn"].value == 3


def test_character_distinct_is_that_of_prag():
    # "abab": 2 characters of 4, 2 pairs (ab, ba) over 4 characters; texts end where they end
    first, second = distinct_char_prag(texts_of(["abab", "", "a", "b\U0001f600", "aaa"]))
    assert first == pytest.approx([50, 0, 100, 100, 100 / 3])
    assert second == pytest.approx([50, 0, 0, 50, 100 / 3])


def test_entropy_is_the_mean_over_three_orders_in_bits():
    # words a a b b: 1 bit; pairs aa ab bb: log2 3; triples aab abb: 1 bit
    assert by_name(["a a b b"])["entr"].value == pytest.approx((1 + np.log2(3) + 1) / 3)


def test_values_without_a_record_are_those_of_the_other_records():
    rng = random.Random(0)
    texts = [" ".join(rng.choices("abcdefgh", k=rng.randint(0, 5))) for _ in range(60)]
    found = by_name(texts)
    for name, jackknife in found.items():
        others = [by_name(texts[:i] + texts[i + 1 :])[name].value for i in range(len(texts))]
        assert jackknife.without_N == pytest.approx(others, abs=1e-9), name


def test_there_is_no_interval_where_no_record_makes_a_difference():
    found = by_name(["a b", "a b", "c", "c", "d", "d"] * 7)
    assert found["usr"].variance() == found["usn"].variance() == 0
    assert found["usr"].interval() is None


@pytest.mark.parametrize("name", ["distinct_1", "distinct_2", "usr", "entr"])
def test_the_jackknife_interval_covers_the_mean_over_samples_at_least_as_often_as_it_says(name):
    rng = np.random.default_rng(1)
    shares = 1 / np.arange(1, 300) ** 1.1
    shares /= shares.sum()

    def sample():
        words = rng.choice(len(shares), size=(150, 3), p=shares)
        return by_name([" ".join(map(str, row[: rng.integers(1, 4)])) for row in words])[name]

    truth = np.mean([sample().value for _ in range(400)])
    bounds = [sample().interval() for _ in range(150)]
    assert np.mean([low <= truth <= high for low, high in bounds]) >= 0.92
