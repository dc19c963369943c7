"""Feature terms with the opinions on them, from raw text: what reviewers judge (Hu and Liu 2004, without a tagger).

Nothing but counts, word lists and a lexicon of opinion words:

1. Candidates are runs of one to three content words, of which the first ones judge nothing, with an opinion somewhere
   within reach, and that do not mostly stand where verbs and adjectives do ("to X", "it is X", "very X").
2. A candidate is a concept if a linear score of its frequency, its cues ("the X", "great X", "the X is") and its last
   word's ending is above zero. The weights are a logistic regression on marks that people made in reviews of nine
   products.
3. Singular and plural are one concept under their more frequent form.

V words of the vocabulary, K candidates, F features of one.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from datamodules.concepts import ConceptOptions
from datamodules.opinions import ENDS, lexicon, signed
from datamodules.records import Codes
from datamodules.term_counts import (
    BOUND,
    COPULA,
    DEFINITE,
    DEGREES,
    NEAR,
    OTHER,
    REACH,
    Cues,
    Part,
    Runs,
    content,
    count_forms,
    count_runs,
    marked,
)

PART = 100_000  # texts
LEAST_STEM = 4  # letters before an ending
DOUBT = 2.0  # occurrences without a cue that count beside those seen
OTHER_DOUBT = 6.0
MOST_OTHER = 0.2  # share of occurrences behind "to", "it", "is", "very" that a name may have
MOST_OTHER_JUDGING = 0.1  # ... whose last word is an opinion word as well ("support")
# Texts that hold a candidate count half its frequency where they are the root of all texts times this: the more texts,
# the more often chance repeats what is none.
HALF = 1 / 6
# By `python benchmarks/extraction.py weights`, on the nine products of Ding et al. (2008); the five of Hu and Liu
# (2004), on which benchmarks/extraction.py measures, had no part in them.
WEIGHTS_F = np.array([4.73, 1.12, 1.55, 1.85, 3.6, 1.87, -0.47, -1.15])
BIAS = -4.22

_NOUN_ENDINGS = ("tion", "sion", "ment", "ness", "ity", "ance", "ence", "ship", "age", "ism", "ware", "phone", "ure")
_OTHER_ENDINGS = ("ly", "ed", "ing", "ful", "ous", "able", "ible", "ive", "ish", "less", "est", "ize", "ise", "ify")

Run = tuple[int, ...]  # codes of words in singular


class Found(NamedTuple):
    """A concept in a text, with the opinion word within reach ("" if none) and its sign (0 if not known)."""

    concept: int
    opinion: str
    polarity: int


class Extractor:
    """Finds fitted concepts, in all their forms, in tokenised texts."""

    def __init__(self, forms: dict[tuple[str, ...], str], signs: dict[str, int]) -> None:
        self.concepts = list(dict.fromkeys(forms.values()))
        self.signs = signs
        index = {name: number for number, name in enumerate(self.concepts)}
        self._forms = {form: index[name] for form, name in forms.items()}
        lengths: defaultdict[str, set[int]] = defaultdict(set)
        for form in forms:
            lengths[form[0]].add(len(form))
        self._lengths = {word: sorted(known, reverse=True) for word, known in lengths.items()}

    def find(self, words: Sequence[str]) -> list[Found]:
        """Concepts of a text from left to right, longest first, each word used once, each concept named once.

        The opinion is the nearest one of the same sentence within REACH words; of two as near, the one before.
        """
        starts = [place for place, word in enumerate(words) if word in self._lengths]
        if not starts:
            return []
        judged = [place for place, word in enumerate(words) if word in self.signs]
        found: dict[int, Found] = {}
        free = 0  # where the words begin that no concept has taken
        for start in starts:
            if start < free:
                continue
            for length in self._lengths[words[start]]:
                concept = self._forms.get(tuple(words[start : start + length]))
                if concept is not None:
                    free = start + length
                    if concept not in found or not found[concept].opinion:
                        new = self._with_opinion(words, start, free, judged, concept)
                        if concept not in found or new.opinion:
                            found[concept] = new
                    break
        return list(found.values())

    def _with_opinion(self, words: Sequence[str], start: int, end: int, judged: list[int], concept: int) -> Found:
        near = [
            (start - place if place < start else place - end + 1, place)
            for place in judged
            if start - REACH <= place < start or end <= place < end + REACH
        ]
        for _, place in sorted(near):
            between = words[place + 1 : start] if place < start else words[end:place]
            if ENDS.isdisjoint(between):
                word = words[place]
                return Found(concept, word, signed(words, place, self.signs[word]))
        return Found(concept, "", 0)


def fit_extractor(texts: Iterable[tuple[Sequence[str], int]], options: ConceptOptions) -> Extractor:
    """An extractor fitted on the words of texts (train alone), each with the sign of its rating (-1, 0, 1).

    Of the texts at most `concept_max_share` and at least `concept_min_count` hold a concept; the `concept_top` most
    frequent are kept. Concepts are numbered by (frequency, descending; name).
    """
    found = _Candidates.of(texts, options.concept_min_count)
    chosen: dict[Run, int] = {}
    for runs, feature_KF in found.runs:
        score_K = feature_KF @ WEIGHTS_F + BIAS
        kept_K = (score_K > 0) & (runs.texts_K <= options.concept_max_share * found.texts)
        chosen |= dict(zip(map(tuple, runs.words_KL[kept_K].tolist()), runs.texts_K[kept_K].tolist(), strict=True))
    return Extractor(_named(_outside(chosen, options.concept_min_count), found, options.concept_top), found.signs)


def _outside(chosen: dict[Run, int], least: int) -> dict[Run, int]:
    """The concepts that at least so many texts hold without a longer one around: the longest one is found."""
    inside: Counter[Run] = Counter()
    for run, texts in chosen.items():
        for length in range(1, len(run)):
            for start in range(len(run) - length + 1):
                inside[run[start : start + length]] += texts
    return {run: texts for run, texts in chosen.items() if not inside[run] or texts - inside[run] >= least}


def candidate_features(texts: Iterable[tuple[Sequence[str], int]], least: int) -> tuple[list[str], np.ndarray]:
    """(names in singular, features [K, F]) of the candidates that at least so many texts hold: to fit weights with."""
    found = _Candidates.of(texts, least)
    names = [" ".join(found.words[code] for code in run) for runs, _ in found.runs for run in runs.words_KL.tolist()]
    return names, np.concatenate([feature_KF for _, feature_KF in found.runs])


class _Candidates(NamedTuple):
    """What concepts are chosen from."""

    words: list[str]
    signs: dict[str, int]  # of opinion words
    singular_V: np.ndarray
    parts: list[Part]
    texts: int
    runs: list[tuple[Runs, np.ndarray]]  # candidates of one, two, three words with their features [K, F]

    @classmethod
    def of(cls, texts: Iterable[tuple[Sequence[str], int]], least: int) -> "_Candidates":
        codes = Codes({"": 0})
        ids, sign_R = _encoded(texts, codes)
        words = list(codes)
        signs = _opinion_words(ids, words, sign_R) if ids else dict(lexicon())
        opinion_V = np.array([word in signs for word in words])
        singular_V, ending_V = _singulars(words, codes), np.array([_ending(word) for word in words])
        cues = Cues(words, opinion_V)
        parts = [cues.part(ids_T) for ids_T in ids]
        runs = []
        for counted in count_runs(parts, singular_V, content(words), least) if parts else []:
            named_K = _may_name(counted, opinion_V)
            kept = Runs(*(column[named_K] for column in counted))
            runs.append((kept, _features(kept, len(sign_R), ending_V, opinion_V)))
        return cls(words, signs, singular_V, parts, len(sign_R), runs)


def _may_name(runs: Runs, opinion_V: np.ndarray) -> np.ndarray:
    """Which runs [K] are judged by someone, open with no opinion ("great sound"), and are no verb or adjective."""
    first_KL, last_K = runs.words_KL[:, :-1], runs.words_KL[:, -1]
    other_K = runs.cues_KC[:, OTHER] / (runs.occurrences_K + OTHER_DOUBT)
    most_K = np.where(opinion_V[last_K], MOST_OTHER_JUDGING, MOST_OTHER)
    return (runs.cues_KC[:, NEAR] > 0) & ~opinion_V[first_KL].any(axis=1) & (other_K <= most_K)


def _features(runs: Runs, texts: int, ending_V: np.ndarray, opinion_V: np.ndarray) -> np.ndarray:
    """What the score weighs [K, F]; all lie between 0 and 1, whatever the number of texts."""
    share_KC = runs.cues_KC / (runs.occurrences_K + DOUBT)[:, None]
    last_K = runs.words_KL[:, -1]
    return np.column_stack(
        [
            runs.texts_K / (runs.texts_K + HALF * texts**0.5),
            share_KC[:, [NEAR, BOUND, DEFINITE, COPULA]],
            ending_V[last_K],
            opinion_V[last_K],
            np.full(len(last_K), runs.words_KL.shape[1] == 3),
        ]
    )


def _encoded(texts: Iterable[tuple[Sequence[str], int]], codes: Codes) -> tuple[list[np.ndarray], np.ndarray]:
    """(ids_T of each part, in which every text stands between zeros; the signs of all texts)."""
    stream, signs = iter(texts), array("b")
    parts: list[np.ndarray] = []
    while True:
        ids = array("i", [0])
        for words, sign in islice(stream, PART):
            ids.extend([codes[word] for word in words])
            ids.append(0)
            signs.append(sign)
        if len(ids) == 1:
            return parts, np.array(signs, dtype=np.int8)
        parts.append(np.array(ids))


def _opinion_words(parts: list[np.ndarray], words: list[str], sign_R: np.ndarray) -> dict[str, int]:
    """Word -> sign: the lexicon's, and adjectives found by "very X", whose sign the ratings tell (0: they do not)."""
    degree_V, content_V = marked(words, DEGREES), content(words)
    count_V, degree_count_V = np.zeros(len(words)), np.zeros(len(words))
    high_V, low_V = np.zeros(len(words)), np.zeros(len(words))
    first = 0
    for ids_T in parts:
        text_T = first + np.cumsum(ids_T == 0) - 1
        first = int(text_T[-1])
        sign_T = sign_R[np.minimum(text_T, len(sign_R) - 1)]
        count_V += np.bincount(ids_T, minlength=len(words))
        degree_count_V += np.bincount(ids_T[1:][degree_V[ids_T[:-1]]], minlength=len(words))
        high_V += np.bincount(ids_T[sign_T > 0], minlength=len(words))
        low_V += np.bincount(ids_T[sign_T < 0], minlength=len(words))
    known = lexicon()
    adjective_V = content_V & (degree_count_V >= 2) & (degree_count_V >= 0.2 * count_V)
    # Log-odds of standing in texts with a high rating against a low one, over its standard error.
    odds_V = np.log((high_V + 0.5) / (high_V.sum() + 1)) - np.log((low_V + 0.5) / (low_V.sum() + 1))
    z_V = odds_V / np.sqrt(1 / (high_V + 0.5) + 1 / (low_V + 0.5))
    learned = {
        words[code]: int(np.sign(z_V[code])) if abs(z_V[code]) >= 2 else 0 for code in np.flatnonzero(adjective_V)
    }
    return learned | {word: known[word] for word in words if word in known}


def singular(word: str) -> str:
    """The singular of an English plural, by its ending."""
    if len(word) <= 3 or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") else word


def _singulars(words: list[str], codes: Codes) -> np.ndarray:
    """The code of each word's singular, where the texts hold it, else its own."""
    singular_V = np.array([codes.get(singular(word), code) for code, word in enumerate(words)], dtype=np.int64)
    while (singular_V[singular_V] != singular_V).any():  # "basses", "bass", by the ending "bas"
        singular_V = singular_V[singular_V]
    return singular_V


def _ending(word: str) -> float:
    """How like a noun a word ends; "cable" and "string" are too short for their ending to be one."""
    if word.endswith(_NOUN_ENDINGS):
        return 0.9
    other = any(word.endswith(ending) and len(word) >= len(ending) + LEAST_STEM for ending in _OTHER_ENDINGS)
    return 0.1 if other or word[:1].isdigit() else 0.55


def _named(chosen: dict[Run, int], found: _Candidates, top: int) -> dict[tuple[str, ...], str]:
    """form -> name, its most frequent form, of the `top` most frequent concepts, in the order of their numbers."""
    named = []
    for length in sorted({len(run) for run in chosen}):
        runs_KL = np.array([run for run in chosen if len(run) == length])
        forms_of: defaultdict[Run, list[tuple[int, tuple[str, ...]]]] = defaultdict(list)
        for form, count in count_forms(found.parts, found.singular_V, runs_KL):
            forms_of[tuple(found.singular_V[form].tolist())].append((-count, tuple(found.words[code] for code in form)))
        named += [(-chosen[run], " ".join(min(known)[1]), sorted(known)) for run, known in forms_of.items()]
    return {form: name for _, name, known in sorted(named)[:top] for _, form in known}
