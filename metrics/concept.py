"""Which concepts the generated explanations name, of the gold ones, of all, of each other's, of the user's and item's.

`found` holds the concepts K(e) of each explanation. Where a record does not define a metric its value is NaN, and the
reported mean is over the others. CMR is named by LLM2ER-EQR without a formula: the forms here are ours, and are
comparable among runs of this project alone.
"""

# N records · I items · V vocabulary · W words

from collections.abc import Collection, Sequence

import numpy as np

from metrics.families import SharedPairs
from metrics.mentions import Mentions, Phrases
from metrics.words import Words, lowered

Names = Sequence[Sequence[str]]


def fmr(words: Words, gold: Names) -> np.ndarray:
    """values_N: 1 where the explanation names a gold concept of its record, NaN where the record has none.

    Gold concepts are looked up by name, so one that the train split never showed counts too.
    """
    (lower,) = lowered([words])
    names, wanted = _numbered(gold)
    phrases = Phrases(names, lower.vocabulary)
    return _any(phrases.mentions(lower, phrases.occurrences(lower)), wanted, gold)


def fmr_token(words: Words, gold: Names) -> np.ndarray:
    """values_N: FMR as PETER's script has it: a gold concept is one of the words. Phrases of two words never are."""
    names, wanted = _numbered(gold)
    return _any(tokens(words, names), wanted, gold)


def tokens(words: Words, names: Sequence[str]) -> Mentions:
    """Which names are words of each text, letter case and all."""
    numbers = {name: number for number, name in enumerate(names)}
    name_V = np.array([numbers.get(word, -1) for word in words.vocabulary], dtype=np.int64)
    name_W = name_V[words.ids_W]
    return Mentions.once(len(words.lengths_T), words.texts_W[name_W >= 0], name_W[name_W >= 0])


def _numbered(gold: Names) -> tuple[list[str], Mentions]:
    """The different names, and the gold concepts of each record as places among them."""
    numbers: dict[str, int] = {}
    wanted = Mentions.of([{numbers.setdefault(name, len(numbers)) for name in names} for names in gold])
    return list(numbers), wanted


def _any(found: Mentions, wanted: Mentions, gold: Names) -> np.ndarray:
    given_N = np.fromiter(map(bool, gold), bool, len(gold))
    return np.where(given_N, found.common(wanted) > 0, np.nan)


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


def div(found: Mentions, n_concepts: int) -> float:
    """Mean number of concepts that two explanations share; lower is better. NaN for fewer than two explanations."""
    return float(SharedPairs.of(["div"], found, n_concepts).weighted(np.ones((1, found.n)))[0, 0])


def share(counts_N: np.ndarray, sizes_N: np.ndarray) -> np.ndarray:
    """values_N: counts by sizes; NaN where the size is 0."""
    return np.where(sizes_N > 0, counts_N / np.maximum(sizes_N, 1), np.nan)


def cmr(found: Mentions, allowed: Mentions) -> np.ndarray:
    """values_N: share of an explanation's concepts that are allowed for its record; NaN where it names none.

    By default allowed are the train concepts of the user and of the item, K_u | K_v; variants allow K_u & K_v or the
    candidate concepts C_uv.
    """
    return share(found.common(allowed), found.sizes_T)


def candidate_recall(found: Mentions, candidates: Mentions) -> np.ndarray:
    """values_N: share of a record's candidate concepts that its explanation names; NaN where it has none."""
    return cmr(candidates, found)
