import math

import numpy as np
import pytest

from metrics.bleu import bleu_statistics, corpus_bleu

# hypotheses, references, order, BLEU counted by hand
BY_HAND = {
    "equal texts": (["a b c d"], ["a b c d"], 4, 100.0),
    "a repeated word is clipped to the reference": (["the the the"], ["the cat"], 1, 100 / 3),
    "a short hypothesis pays the brevity penalty": (["a b c"], ["a b c d"], 3, 100 * math.exp(1 - 4 / 3)),
    "a long hypothesis pays none": (["a b c d x"], ["a b c d"], 1, 80.0),
    "three words have no 4-gram": (["a b c"], ["a b c"], 4, 0.0),
    "no shared word": (["x y"], ["a b"], 1, 0.0),
    "orders are averaged geometrically": (["a b x c d"], ["a b c d y"], 2, 100 * math.sqrt(4 / 5 * 2 / 4)),
    "counts are summed before dividing": (
        ["a b", "c"],
        ["a b", "d e f"],
        2,
        100 * math.sqrt(2 / 3 * 1 / 1) * math.exp(1 - 5 / 3),
    ),
    "empty hypothesis": ([""], ["a b"], 1, 0.0),
    "empty reference": (["a b"], [""], 1, 0.0),
    "whitespace of any kind separates words": (["a  b\tc"], ["a b c"], 3, 100.0),
    "letter case matters": (["A b"], ["a b"], 1, 50.0),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_bleu_equals_the_value_counted_by_hand(case):
    hypotheses, references, order, expected = BY_HAND[case]
    sums = bleu_statistics(hypotheses, references).sum(axis=0)
    assert corpus_bleu(sums, order) == pytest.approx(expected, abs=1e-9)


def test_leading_axes_are_scored_one_by_one():
    sums = bleu_statistics(["a b c d", "a b x c d"], ["a b c d", "a b c d y"])
    together = corpus_bleu(sums, 2)
    assert together.tolist() == [float(corpus_bleu(row, 2)) for row in sums]
    assert np.ptp(together) > 0


def test_unequal_numbers_of_texts_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        bleu_statistics(["a", "b"], ["a"])
