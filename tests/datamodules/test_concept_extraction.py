"""Concepts where the data name none: content words and pairs within a window of frequency."""

from datamodules.concepts import ConceptOptions, fit_concepts


def options(least=1, share=1.0, top=100):
    return ConceptOptions(concept_min_count=least, concept_max_share=share, concept_top=top)


def test_words_and_neighbouring_pairs_without_stop_words_in_order_of_frequency():
    texts = ["the battery life is good .", "battery life , and sound", "sound of the battery"]
    assert fit_concepts(texts, options()) == ["battery", "battery life", "life", "sound"]


def test_a_pair_spans_neither_a_stop_word_nor_punctuation():
    assert fit_concepts(["neck and body , strings"], options()) == ["body", "neck", "strings"]


def test_frequency_counts_texts_and_not_occurrences():
    assert fit_concepts(["cable cable cable", "lamp"], options(least=2)) == []


def test_concepts_lie_within_the_window_of_frequency():
    texts = ["amp cable", "amp lamp", "amp cable", "amp stand"]
    assert fit_concepts(texts, options(least=2, share=0.5)) == ["amp cable", "cable"]


def test_only_the_most_frequent_are_kept_ties_by_name():
    assert fit_concepts(["zinc", "zinc", "cable", "amp"], options(top=2)) == ["zinc", "amp"]


def test_case_and_numbers_make_no_concept_of_their_own():
    assert fit_concepts(["Cable 100", "cable 9v"], options()) == ["cable", "9v", "cable 9v"]


def test_no_text_gives_no_concept():
    assert fit_concepts([], options()) == []
