import random
from itertools import combinations

import numpy as np
import pytest

from metrics import item_overlap
from metrics.columns import Names
from metrics.concept import candidate_recall, cmr, div, fmr, fmr_token
from metrics.diversity import corpus_words
from metrics.families import SharedPairs
from metrics.item_overlap import cor
from metrics.mentions import Mentions
from metrics.texts import texts_of


def random_sets(rng: random.Random, n: int, concepts: int = 6) -> list[set[int]]:
    return [set(rng.choices(range(concepts), k=rng.randint(0, 4))) for _ in range(n)]


def slow_div(found: list[set[int]]) -> float:
    pairs = list(combinations(found, 2))
    return sum(len(a & b) for a, b in pairs) / len(pairs)


def slow_cor(found: list[set[int]], items: list[int], smaller: bool = False) -> float:
    means = []
    for item in sorted(set(items)):
        own = [concepts for concepts, other in zip(found, items, strict=True) if other == item]
        values = []
        for a, b in combinations(own, 2):
            size = min(len(a), len(b)) if smaller else len(a | b)
            values.append(len(a & b) / size if size else 0.0)
        if values:
            means.append(sum(values) / len(values))
    return sum(means) / len(means)


def test_fmr_is_one_where_a_gold_concept_is_named():
    texts = ["the swimming pool", "nice room", "start of it", "anything"]
    values = fmr(corpus_words(texts_of(texts)), Names.of([["swimming pool"], ["pool", "Room"], ["art"], []]))
    np.testing.assert_equal(values, [1, 1, 0, np.nan])


def test_fmr_of_single_words_counts_letter_case():
    texts = ["the Pool", "the pool", "swimming pool", "anything"]
    values = fmr_token(corpus_words(texts_of(texts)), Names.of([["pool"], ["pool"], ["swimming pool"], []]))
    np.testing.assert_equal(values, [0, 1, 0, np.nan])


def test_div_equals_the_loop_over_pairs():
    rng = random.Random(1)
    for n in (2, 3, 40):
        found = random_sets(rng, n)
        assert div(Mentions.of(found), 6) == pytest.approx(slow_div(found), abs=1e-12)


def test_div_of_explanations_without_concepts_is_zero():
    assert div(Mentions.of([set(), set(), set()]), 6) == 0


def test_weighted_div_is_the_mean_over_drawn_pairs_of_different_explanations():
    rng = random.Random(2)
    found = random_sets(rng, 12)
    drawn = [rng.randrange(12) for _ in range(12)]
    pairs = [(a, b) for a, b in combinations(drawn, 2) if a != b]
    expected = sum(len(found[a] & found[b]) for a, b in pairs) / len(pairs)
    weights = np.bincount(drawn, minlength=12).astype(float)
    assert SharedPairs.of(["div"], Mentions.of(found), 6).weighted(weights[None])[0, 0] == pytest.approx(
        expected, abs=1e-12
    )


@pytest.mark.parametrize("cells", [1, 40, item_overlap.CELLS])
def test_cor_equals_the_loop_over_items_and_pairs(monkeypatch, cells):
    monkeypatch.setattr(item_overlap, "CELLS", cells)
    rng = random.Random(3)
    for _ in range(20):
        found = random_sets(rng, 60, concepts=4)
        items = [rng.randrange(15) for _ in found]
        overlap = cor(Mentions.of(found), np.array(items))
        assert overlap.jaccard_I.mean() == pytest.approx(slow_cor(found, items), abs=1e-12)
        assert overlap.overlap_I.mean() == pytest.approx(slow_cor(found, items, smaller=True), abs=1e-12)


def test_cor_weighs_items_and_not_pairs():
    # item 0: one pair, Jaccard 1; item 1: three pairs, Jaccard 0; item 2 has one explanation
    overlap = cor(Mentions.of([{1}, {1}, {2}, {3}, {4}, {5}]), np.array([0, 0, 1, 1, 1, 2]))
    assert overlap.jaccard_I.tolist() == [1, 0]
    assert overlap.pairs_I.tolist() == [1, 3]


def test_cor_counts_pairs_without_concepts_as_zero_and_reports_them():
    overlap = cor(Mentions.of([set(), set(), set(), {1}]), np.array([0, 0, 0, 0]))
    assert overlap.jaccard_I.tolist() == [0]
    assert (overlap.empty_pairs_I[0], overlap.pairs_I[0]) == (3, 6)


def test_cor_of_single_explanations_has_no_items():
    assert len(cor(Mentions.of([{1}, {1}]), np.array([0, 1])).jaccard_I) == 0


def test_cmr_is_the_allowed_share_of_named_concepts():
    values = cmr(Mentions.of([{0, 1, 2}, {0}, set(), {3}]), Mentions.of([{0, 1, 9}, {0}, {1}, set()]))
    np.testing.assert_allclose(values, [2 / 3, 1, np.nan, 0])


def test_candidate_recall_is_the_named_share_of_candidates():
    values = candidate_recall(Mentions.of([{0, 1, 2}, set(), {3}]), Mentions.of([{0, 9}, {1}, set()]))
    np.testing.assert_allclose(values, [1 / 2, 0, np.nan])
