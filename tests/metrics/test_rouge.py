import pytest

from metrics.rouge import rouge_l, rouge_n


def test_rouge_n_compares_sets_and_not_counts():
    # sets {a, b} and {a, c, d}: one common
    rouge = rouge_n(["a a a b"], ["a c d d"], 1)
    assert (rouge.p_N[0], rouge.r_N[0]) == pytest.approx((50, 100 / 3))
    assert rouge.f_N[0] == pytest.approx(40, abs=1e-5)


def test_rouge_2_counts_pairs_of_words():
    # {ab, bc} and {ab, bd, dc}: one common
    rouge = rouge_n(["a b c"], ["a b d c"], 2)
    assert (rouge.p_N[0], rouge.r_N[0]) == pytest.approx((50, 100 / 3))


def test_rouge_l_leans_to_the_smaller_of_precision_and_recall():
    # LCS 4 of 5 and of 10: P .8, R .4, beta 2, F = 5 * .32 / (.4 + 4 * .8) and not 2PR / (P + R) = .533
    rouge = rouge_l(["a b c d x"], ["a b c d e f g h i j"])
    assert (rouge.p_N[0], rouge.r_N[0]) == pytest.approx((80, 40))
    assert rouge.f_N[0] == pytest.approx(100 * 1.6 / 3.6)


def test_prediction_and_reference_are_not_interchangeable():
    for score in (rouge_l, lambda ours, theirs: rouge_n(ours, theirs, 1)):
        there, back = score(["a b"], ["a b c d"]), score(["a b c d"], ["a b"])
        assert there.p_N[0] == back.r_N[0] == 100
        assert there.r_N[0] == back.p_N[0] == 50


def test_words_are_split_at_single_spaces():
    # "a  b" holds an empty word: {a, "", b} and {a, b}
    assert rouge_n(["a  b"], ["a b"], 1).p_N[0] == pytest.approx(200 / 3)


def test_an_empty_text_scores_zero():
    for ours, theirs in (("", "a b"), ("a b", "")):
        for rouge in (rouge_n([ours], [theirs], 1), rouge_n([ours], [theirs], 2), rouge_l([ours], [theirs])):
            assert [values_N[0] for values_N in rouge] == [0, 0, 0]
