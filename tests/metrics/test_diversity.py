import pytest

from metrics.diversity import distinct_corpus, distinct_sentence, unique_sentences

TEXTS = ["a b a b", "a b", "c", ""]  # 7 words of 3 kinds; bigrams ab ba ab | ab


def test_corpus_distinct_pools_the_n_grams_of_all_texts():
    assert distinct_corpus(TEXTS, 1) == pytest.approx(100 * 3 / 7)
    assert distinct_corpus(TEXTS, 2) == pytest.approx(100 * 2 / 4)


def test_sentence_distinct_is_a_share_within_each_text():
    assert distinct_sentence(TEXTS, 1) == pytest.approx([50, 100, 100, 0])
    assert distinct_sentence(TEXTS, 2) == pytest.approx([100 * 2 / 3, 100, 0, 0])


def test_distinct_counts_words_and_not_characters():
    assert distinct_corpus(["aa aa"], 1) == 50


def test_corpus_distinct_of_nothing_is_zero():
    assert distinct_corpus(["", ""], 1) == 0


def test_texts_are_the_same_when_their_words_are():
    assert unique_sentences(["a b", "a  b ", "b a", "A b"]) == 3
