"""Which concepts the generated explanations name, of the gold ones, of all, of each other's, of the user's and item's.

`found` holds the concepts K(e) of each explanation as a set of indices. Where a record does not define a metric its
value is NaN, and the reported mean is over the others. COR and CMR are named by LLM2ER-EQR without a formula: the forms
here are ours, with their variants, and are comparable among runs of this project alone.
"""

# N records · I items · R resamples · C concepts · M mentions of a concept in a record

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from collections.abc import Set as AbstractSet
from itertools import combinations
from typing import NamedTuple

import numpy as np

from metrics.phrases import PhraseMatcher

Concepts = Sequence[AbstractSet[int]]


def fmr(explanations: Sequence[str], gold: Sequence[Sequence[str]]) -> np.ndarray:
    """values_N: 1 where the explanation names a gold concept of its record, NaN where the record has none.

    Gold concepts are looked up by name, so one that the train split never showed counts too.
    """
    pairs = zip(explanations, gold, strict=True)
    return np.array([bool(PhraseMatcher(names).find(text)) if names else np.nan for text, names in pairs], float)


def fcr(found: Concepts, n_concepts: int) -> float:
    """Share of the vocabulary's `n_concepts` that the explanations name at least once."""
    return len(set().union(*found)) / n_concepts


def div(found: Concepts) -> float:
    """Mean number of concepts that two explanations share; lower is better. NaN for fewer than two explanations."""
    return float(weighted_div(found)(np.ones((1, len(found))))[0])


def weighted_div(found: Concepts) -> Callable[[np.ndarray], np.ndarray]:
    """DIV as a function of weights_RN, the times that each explanation was drawn: values_R.

    The sum over pairs needs only how often each concept is named, so time is linear in the explanations. Pairs of
    an explanation with its own copy are left out: they would raise every resampled value above the true one.
    """
    records_M = np.array([record for record, concepts in enumerate(found) for _ in concepts], dtype=np.int64)
    concepts_M = np.array([concept for concepts in found for concept in concepts], dtype=np.int64)
    sizes_N = np.array([len(concepts) for concepts in found], dtype=np.float64)

    def value(weights_RN: np.ndarray) -> np.ndarray:
        counts = (np.bincount(concepts_M, weights_N[records_M]) for weights_N in weights_RN)
        shared_R = np.array([np.square(counts_C).sum() for counts_C in counts])
        squares_RN = np.square(weights_RN)
        pairs_R = weights_RN.sum(axis=1) ** 2 - squares_RN.sum(axis=1)
        with np.errstate(invalid="ignore"):
            return (shared_R - squares_RN @ sizes_N) / pairs_R

    return value


class ItemOverlap(NamedTuple):
    """Concept overlap among the explanations of each item that has two or more."""

    jaccard_I: np.ndarray
    overlap_I: np.ndarray
    empty_pairs_I: np.ndarray
    pairs_I: np.ndarray


def cor(found: Concepts, items: Sequence[Hashable]) -> ItemOverlap:
    """COR is the mean of `jaccard_I`: per item, mean over pairs of |a & b| / |a | b|; lower is better.

    `overlap_I` divides by the smaller set instead. Pairs that divide by nothing count 0; those without any concept are
    `empty_pairs_I`, to be read beside COR, which texts without concepts win.
    """
    kinds: dict[Hashable, Counter[frozenset[int]]] = defaultdict(Counter)
    for concepts, item in zip(found, items, strict=True):
        kinds[item][frozenset(concepts)] += 1
    rows = [_pair_overlaps(counts) for counts in kinds.values() if counts.total() > 1]
    jaccard_I, overlap_I, empty_pairs_I, pairs_I = np.array(rows, dtype=np.float64).reshape(-1, 4).T
    return ItemOverlap(jaccard_I, overlap_I, empty_pairs_I, pairs_I)


def _pair_overlaps(counts: Counter[frozenset[int]]) -> tuple[float, float, int, int]:
    """Of one item: mean Jaccard, mean overlap coefficient, pairs without concepts, pairs."""
    pairs = counts.total() * (counts.total() - 1) // 2
    alike = {concepts: count * (count - 1) // 2 for concepts, count in counts.items()}
    empty_pairs = alike.get(frozenset(), 0)
    jaccard = overlap = float(sum(alike.values()) - empty_pairs)
    for (first, first_count), (second, second_count) in combinations(counts.items(), 2):
        common = len(first & second) * first_count * second_count
        if common:
            jaccard += common / len(first | second)
            overlap += common / min(len(first), len(second))
    return jaccard / pairs, overlap / pairs, empty_pairs, pairs


def cmr(found: Concepts, allowed: Concepts) -> np.ndarray:
    """values_N: share of an explanation's concepts that are allowed for its record; NaN where it names none.

    By default allowed are the train concepts of the user and of the item, K_u | K_v; variants allow K_u & K_v or the
    candidate concepts C_uv.
    """
    return candidate_recall(allowed, found)


def candidate_recall(found: Concepts, candidates: Concepts) -> np.ndarray:
    """values_N: share of a record's candidate concepts that its explanation names; NaN where it has none."""
    pairs = zip(found, candidates, strict=True)
    return np.array([len(named & wanted) / len(wanted) if wanted else np.nan for named, wanted in pairs])
