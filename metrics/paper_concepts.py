"""The metrics of the `paper` suite that look for concepts in the texts."""

# N records · I items · R resamples

from collections.abc import Callable
from typing import Any

import numpy as np

from metrics.concept import candidate_recall, cmr, fmr, fmr_token, ifcr, listed, share, substring_match, tokens
from metrics.families import Family, Jackknife, SharedPairs, Sums, different, means
from metrics.item_overlap import cor
from metrics.measures import AbsentError, Columns, Data
from metrics.mentions import Mentions, Phrases

LIST_SHARE = 0.5  # of the words of a text, from which on it is a list of concepts


def _gold_columns(data: Data) -> Columns:
    return {
        "fmr": fmr(data.words, data.gold),
        "fmr_token": fmr_token(data.words, data.gold),
        "gt_fmr": substring_match(data.texts, data.gold.encoded()),
    }


def _rate_columns(data: Data) -> Columns:
    covered_N, words_N = data.covered, data.words.lengths_T
    return {
        "concept_rate": (data.found.sizes_T > 0).astype(float),
        "concepts_named": data.found.sizes_T.astype(float),
        "concept_words": covered_N / np.maximum(words_N, 1),
        "list_rate": ((words_N > 0) & (covered_N >= LIST_SHARE * words_N)).astype(float),
        "cmr_gold": cmr(data.found, data.found_in_references),
    }


def _match_columns(data: Data) -> Columns:
    of_user_M = data.found.also_in(*data.known_concepts("user_index", data.knowledge.user_concepts))
    of_item_M = data.found.also_in(*data.known_concepts("item_index", data.knowledge.item_concepts))
    sizes_N = data.found.sizes_T
    either, both = (data.found.per_text(marked_M) for marked_M in (of_user_M | of_item_M, of_user_M & of_item_M))
    return {"cmr": share(either, sizes_N), "cmr_both": share(both, sizes_N)}


def _item_columns(data: Data) -> Columns:
    index_N, names = data.item_names()
    return {"ifmr": substring_match(data.texts, (names[index] for index in index_N.tolist()))}


def _candidate_columns(data: Data) -> Columns:
    names = data.candidates
    if len(names.place_M) == 0:
        raise AbsentError("no prediction has candidate concepts")
    indices = {concept: index for index, concept in enumerate(data.knowledge.concepts)}
    number_V = np.array([indices.get(name, -1) for name in names.values])
    if (unknown_M := number_V[names.place_M] < 0).any():
        unknown = sorted({names.values[place] for place in np.unique(names.place_M[unknown_M]).tolist()})
        raise AbsentError(f"candidate concept {unknown[0]!r} ({len(unknown)} in all) is not in the train split")
    candidates = listed(names, number_V)
    return {
        "cmr_candidates": cmr(data.found, candidates),
        "candidate_recall": candidate_recall(data.found, candidates),
    }


# Names are what `skipped` calls a family that lacks its data.
CONCEPT_COLUMNS: dict[str, Callable[[Data], Columns]] = {
    "fmr, fmr_token, gt_fmr": _gold_columns,
    "concept_rate, list_rate, cmr_gold": _rate_columns,
    "cmr, cmr_both": _match_columns,
    "ifmr": _item_columns,
    "cmr_candidates, candidate_recall": _candidate_columns,
}


def _coverage(data: Data) -> list[Jackknife]:
    """FCR: what is named of the train concepts."""
    return [_named("fcr", data.found, len(data.knowledge.concepts))]


def _test_coverage(data: Data) -> list[Jackknife]:
    vocabulary = sorted(data.gold.values[place] for place in np.unique(data.gold.place_M).tolist())
    found, _ = Phrases(vocabulary, data.lower[0].vocabulary).found(data.lower[0])
    return [_named("fcr_test", found, len(vocabulary))]


def _tokens(data: Data) -> list[Family | Jackknife]:
    """FCR and DIV as PETER's script has them: vocabulary of all splits, single words, letter case counts."""
    vocabulary = data.knowledge.all_concepts
    if not vocabulary:
        raise AbsentError("the concepts of all splits are not known without a corpus")
    found = tokens(data.words, vocabulary)
    return [_named("fcr_token", found, len(vocabulary)), *_shared("div_token", found, len(vocabulary))]


def _named(name: str, found: Mentions, total: int) -> Jackknife:
    return different(name, found.concepts_M, found.texts_M, found.n, float(total))


def _div(data: Data) -> list[Family]:
    return _shared("div", data.found, len(data.knowledge.concepts))


def _shared(name: str, found: Mentions, n_concepts: int) -> list[Family]:
    if found.n < 2:
        raise AbsentError("there is one prediction and it compares two")
    return [SharedPairs.of([name], found, n_concepts)]


def _cor(data: Data) -> list[Family]:
    overlap = cor(data.found, data.groups("item"))
    if len(overlap.pairs_I) == 0:
        raise AbsentError("no item has two predictions")
    summands_IS = np.column_stack([*overlap, np.ones(len(overlap.pairs_I))])

    def finish(sums_RS: np.ndarray) -> np.ndarray:
        jaccard_R, overlap_R, count_R, empty_R, pairs_R, items_R = np.moveaxis(sums_RS, -1, 0)
        parts = [jaccard_R / items_R, overlap_R / items_R, count_R / items_R, empty_R / pairs_R]
        return np.stack(parts, axis=-1)

    return [Sums(["cor", "cor_overlap", "cor_count", "cor_empty_share"], "item", summands_IS, finish)]


def _item_coverage(data: Data) -> list[Family]:
    index_N, names = data.item_names()
    group_N = data.groups("item")
    _, first_G = np.unique(group_N, return_index=True)
    values_G = ifcr(data.texts, group_N, [names[index] for index in index_N[first_G].tolist()])
    if np.isnan(values_G).all():
        raise AbsentError("defined on no prediction")
    return [means({"ifcr": values_G}, "item")]


CONCEPT_FAMILIES: dict[str, Callable[[Data], list[Any]]] = {
    "fcr": _coverage,
    "fcr_test": _test_coverage,
    "fcr_token, div_token": _tokens,
    "div": _div,
    "cor, cor_overlap, cor_count, cor_empty_share": _cor,
    "ifcr": _item_coverage,
}
