"""Which concepts the generated explanations name, of the gold ones, of all, of each other's, of the user's and item's.

`found` holds the concepts K(e) of each explanation as a set of indices. Where a record does not define a metric its
value is NaN, and the reported mean is over the others. COR and CMR are named by LLM2ER-EQR without a formula: the forms
here are ours, with their variants, and are comparable among runs of this project alone.
"""

# N records · I items

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Sequence
from collections.abc import Set as AbstractSet
from itertools import combinations
from typing import NamedTuple

import numpy as np

from metrics.families import SharedPairs
from metrics.phrases import PhraseMatcher

Concepts = Sequence[AbstractSet[int]]


def fmr(explanations: Sequence[str], gold: Sequence[Sequence[str]]) -> np.ndarray:
    """values_N: 1 where the explanation names a gold concept of its record, NaN where the record has none.

    Gold concepts are looked up by name, so one that the train split never showed counts too.
    """
    pairs = zip(explanations, gold, strict=True)
    return np.array([bool(PhraseMatcher(names).find(text)) if names else np.nan for text, names in pairs], float)


def fmr_token(explanations: Sequence[str], gold: Sequence[Sequence[str]]) -> np.ndarray:
    """values_N: FMR as PETER's script has it: a gold concept is one of the words. Phrases of two words never are."""
    pairs = zip(explanations, gold, strict=True)
    return np.array([not set(names).isdisjoint(text.split()) if names else np.nan for text, names in pairs], float)


def substring_match(explanations: Sequence[str], wanted: Sequence[Collection[str]]) -> np.ndarray:
    """values_N: 1 where a text contains a wanted concept, NaN where none is wanted.

    MAPLE's matching, by characters: phrases count, and "art" is found in "start". With gold concepts it is GT-FMR,
    with the train concepts of the item iFMR.
    """
    pairs = zip(explanations, wanted, strict=True)
    return np.array([any(name in text for name in names) if names else np.nan for text, names in pairs], float)


def ifcr(explanations: Sequence[str], item_N: np.ndarray, wanted: Sequence[Collection[str]]) -> np.ndarray:
    """values_I: share of the item's train concepts that its texts contain, by characters; NaN where it has none.

    `wanted` holds, for each record, the train concepts of its item. iFCR (MAPLE) is the mean.
    """
    texts: list[list[str]] = [[] for _ in range(int(item_N.max()) + 1)]
    names: list[Collection[str]] = [()] * len(texts)
    for text, item, concepts in zip(explanations, item_N.tolist(), wanted, strict=True):
        texts[item].append(text)
        names[item] = concepts
    # a line feed joins the texts: no concept, whose words are split at whitespace, can lie across it
    joined = ["\n".join(own) for own in texts]
    return np.array(
        [
            sum(name in text for name in own) / len(own) if own else np.nan
            for text, own in zip(joined, names, strict=True)
        ]
    )


def div(found: Concepts) -> float:
    """Mean number of concepts that two explanations share; lower is better. NaN for fewer than two explanations."""
    return float(SharedPairs.of(["div"], found).weighted(np.ones((1, len(found))))[0, 0])


class ItemOverlap(NamedTuple):
    """Concept overlap among the explanations of each item that has two or more."""

    jaccard_I: np.ndarray
    overlap_I: np.ndarray
    count_I: np.ndarray
    empty_pairs_I: np.ndarray
    pairs_I: np.ndarray


def cor(found: Concepts, items: Sequence[Hashable]) -> ItemOverlap:
    """COR is the mean of `jaccard_I`: per item, mean over pairs of |a & b| / |a | b|; lower is better.

    `overlap_I` divides by the smaller set instead, `count_I` by nothing. Pairs that divide by nothing count 0; those
    without any concept are `empty_pairs_I`, to be read beside COR, which texts without concepts win.
    """
    kinds: dict[Hashable, Counter[frozenset[int]]] = defaultdict(Counter)
    for concepts, item in zip(found, items, strict=True):
        kinds[item][frozenset(concepts)] += 1
    rows = [_pair_overlaps(counts) for counts in kinds.values() if counts.total() > 1]
    return ItemOverlap(*np.array(rows, dtype=np.float64).reshape(-1, len(ItemOverlap._fields)).T)


def _pair_overlaps(counts: Counter[frozenset[int]]) -> tuple[float, float, float, int, int]:
    """Of one item: mean Jaccard, mean overlap coefficient, mean number shared, pairs without concepts, pairs."""
    pairs = counts.total() * (counts.total() - 1) // 2
    alike = {concepts: count * (count - 1) // 2 for concepts, count in counts.items()}
    empty_pairs = alike.get(frozenset(), 0)
    jaccard = overlap = float(sum(alike.values()) - empty_pairs)
    shared = float(sum(len(concepts) * count for concepts, count in alike.items()))
    for (first, first_count), (second, second_count) in combinations(counts.items(), 2):
        common = len(first & second) * first_count * second_count
        if common:
            jaccard += common / len(first | second)
            overlap += common / min(len(first), len(second))
            shared += common
    return jaccard / pairs, overlap / pairs, shared / pairs, empty_pairs, pairs


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
