"""Which concepts the generated explanations name, of the gold ones, of all, of each other's, of the user's and item's.

`found` holds the concepts K(e) of each explanation. Where a record does not define a metric its value is NaN, and the
reported mean is over the others. CMR is named by LLM2ER-EQR without a formula: the forms here are ours, and are
comparable among runs of this project alone.
"""

# N records · G groups: the items of the records · V vocabulary · M mentions of names

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from metrics.columns import Names
from metrics.families import SharedPairs
from metrics.mentions import Mentions, Phrases, text_of
from metrics.texts import Texts, encoded
from metrics.words import Words, lowered


def fmr(words: Words, gold: Names) -> np.ndarray:
    """values_N: 1 where the explanation names a gold concept of its record, NaN where the record has none.

    Gold concepts are looked up by name, so one that the train split never showed counts too.
    """
    (lower,) = lowered([words])
    return _any(Phrases(gold.values, lower.vocabulary).anywhere(lower), gold)


def fmr_token(words: Words, gold: Names) -> np.ndarray:
    """values_N: FMR as PETER's script has it: a gold concept is one of the words. Phrases of two words never are."""
    return _any(tokens(words, gold.values), gold)


def tokens(words: Words, names: Sequence[str]) -> Mentions:
    """Which names are words of each text, letter case and all."""
    numbers = {name: number for number, name in enumerate(names)}
    name_V = np.array([numbers.get(word, -1) for word in words.vocabulary], dtype=np.int64)
    place_M = np.flatnonzero((name_V >= 0)[words.ids_W])
    return Mentions.once(len(words.lengths_T), text_of(words, place_M), name_V[words.ids_W[place_M]])


def listed(names: Names, number_V: np.ndarray | None = None) -> Mentions:
    """The names of each record as its mentions, by place among the different ones or by other numbers for these."""
    concept_M = names.place_M if number_V is None else number_V[names.place_M]
    return Mentions.once(len(names.given_N), names.row_M, concept_M.astype(np.int64))


def _any(found: Mentions, gold: Names) -> np.ndarray:
    return np.where(gold.sizes_N > 0, found.common(listed(gold)) > 0, np.nan)


def substring_match(texts: Texts, wanted: Iterable[Collection[bytes]]) -> np.ndarray:
    """values_N: 1 where a text contains a wanted concept, NaN where none is wanted.

    MAPLE's matching, by characters (as UTF-8, in which no character is found within another): phrases count, and "art"
    is found in "start". With gold concepts it is GT-FMR, with the train concepts of the item iFMR.
    """
    pairs = zip(encoded(texts), wanted, strict=True)
    values = (any(name in text for name in names) if names else np.nan for text, names in pairs)
    return np.fromiter(values, np.float64, len(texts))


def ifcr(texts: Texts, group_N: np.ndarray, wanted: Sequence[Collection[bytes]]) -> np.ndarray:
    """values_G: share of the train concepts of an item that its texts contain, by characters; NaN where it has none.

    `group_N` numbers the items of the records from 0 on, `wanted` holds the concepts of each. iFCR (MAPLE) is the mean.
    """
    order_N = np.argsort(group_N, kind="stable")
    ends = np.cumsum(np.bincount(group_N, minlength=len(wanted))).tolist()
    values = []
    for start, end, names in zip([0, *ends], ends, wanted, strict=False):
        # a line feed joins the texts: no concept, whose words are split at whitespace, can lie across it
        joined = b"\n".join(texts.take(order_N[start:end]).to_pylist())
        values.append(sum(name in joined for name in names) / len(names) if names else np.nan)
    return np.array(values, dtype=np.float64)


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
