"""Feature terms with the opinions on them, from raw text: what reviewers judge (Hu and Liu 2004, without a tagger).

Nothing but counts, word lists and a lexicon of opinion words:

1. A word is noun-like by its neighbours ("the X", "great X" against "to X", "very X"), with its ending as the prior.
2. Candidates are runs of one to three content words whose last one is noun-like and whose others judge nothing.
3. A candidate is a concept if enough texts hold it, not too many, and opinions are bound to it: right before it
   ("great X"), or after a copula ("the X is really great").
4. Singular and plural are one concept under their more frequent form; a word that occurs inside longer concepts must be
   frequent enough outside of them.

All counts are taken over array columns, in parts of `PART` texts, so that time and memory are linear in the texts.

T tokens of a part, V words of the vocabulary.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from datamodules.concepts import STOP_WORDS, ConceptOptions
from datamodules.opinions import ENDS, NEGATORS, PAUSES, lexicon, signed
from datamodules.records import Codes
from metrics.phrases import tokenize

PART = 100_000
LONGEST = 3  # words of a concept
LEAST_STEM = 4  # letters before an ending
REACH = 6  # words between a concept and an opinion on it
# Tuned on the nine products of Ding et al. (2008); benchmarks/extraction.py measures on the five of Hu and Liu (2004).
PRIOR = 4.0  # occurrences that the ending of a word counts for
NOUN = 0.5  # least noun-likeness of the last word of a concept
NOUN_JUDGES = 0.9  # ... of a word that is an opinion word as well ("support")
NOUN_FIRST = 0.3  # ... of the first word of a longer concept
NEAR_SHARE = 0.2  # least share of its texts with an opinion within reach
BOUND_SHARE = 0.05  # least share of its texts with an opinion bound to it
MODIFIER = 0.1  # what an occurrence after a determiner and before a content word counts against a noun
GLUE = 0.05  # least share of the rarer word's texts that hold the longer concept

_DETERMINERS = frozenset(
    tokenize("""
the a an my your its their our his her this these those any some each every another both of with for has have in
on
""")
)
_OPENERS = frozenset(tokenize("the a an my your its their our his her this these of with in"))
_VERB_CUES = frozenset(
    tokenize("""
to i you we they he she it who will would can could should may might must do does did i'd i'll you'll please
let's they'll it'll we'll
""")
)
_DEGREES = frozenset(
    tokenize("""
very so too really more most quite extremely pretty as fairly rather incredibly somewhat super less even
""")
)
_COPULAS = frozenset(
    tokenize("""
is are was were it's looks feels sounds seems works work worked look sound feel seem has have
""")
)
_NOUN_ENDINGS = ("tion", "sion", "ment", "ness", "ity", "ance", "ence", "ship", "age", "ism", "ware", "phone", "ure")
_OTHER_ENDINGS = ("ly", "ed", "ing", "ful", "ous", "able", "ible", "ive", "ish", "less", "est", "ize", "ise", "ify")


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
        judged = [place for place, word in enumerate(words) if word in self.signs]
        found: dict[int, Found] = {}
        start = 0
        while start < len(words):
            step = 1
            for length in self._lengths.get(words[start], ()):
                concept = self._forms.get(tuple(words[start : start + length]))
                if concept is not None:
                    step = length
                    new = self._with_opinion(words, start, start + length, judged, concept)
                    if concept not in found or (new.opinion and not found[concept].opinion):
                        found[concept] = new
                    break
            start += step
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


def fit_extractor(texts: Iterable[tuple[str, int]], options: ConceptOptions) -> Extractor:
    """An extractor fitted on tokenised texts (train alone), each with the sign of its rating (-1, 0, 1).

    Of the texts at most `concept_max_share` and at least `concept_min_count` hold a concept; the `concept_top` most
    frequent are kept. Concepts are numbered by (frequency, descending; name).
    """
    codes = Codes({"": 0})
    parts, sign_R = _encoded(texts, codes)
    if not parts:
        return Extractor({}, dict(lexicon()))
    words = list(codes)
    judging = _opinion_words(parts, words, sign_R)
    opinion_V = np.array([word in judging for word in words])
    singular_V = _singulars(words, codes)
    noun_V = _noun_likeness(parts, words, singular_V, opinion_V)
    counts, forms = _count_candidates(parts, words, singular_V, opinion_V, options.concept_min_count)
    most = options.concept_max_share * len(sign_R)
    chosen = _select(counts, noun_V, opinion_V, options.concept_min_count, most)
    return Extractor(_named(chosen, forms, words, singular_V, options.concept_top), judging)


def _encoded(texts: Iterable[tuple[str, int]], codes: Codes) -> tuple[list[np.ndarray], np.ndarray]:
    """(ids_T of each part, in which every text stands between zeros; the signs of all texts)."""
    stream, signs = iter(texts), array("b")
    parts: list[np.ndarray] = []
    while True:
        ids = array("i", [0])
        for text, sign in islice(stream, PART):
            ids.extend([codes[word] for word in text.lower().split()])
            ids.append(0)
            signs.append(sign)
        if len(ids) == 1:
            return parts, np.array(signs, dtype=np.int8)
        parts.append(np.array(ids))


def _marked(words: list[str], wanted: Iterable[str]) -> np.ndarray:
    wanted = frozenset(wanted)
    return np.array([word in wanted for word in words])


def _content(words: list[str]) -> np.ndarray:
    """Which words may stand in a concept."""
    return np.array(
        [
            len(word) > 1
            and word not in STOP_WORDS
            and word not in NEGATORS
            and not word.endswith("'s")
            and any(map(str.isalpha, word))
            for word in words
        ]
    )


def _opinion_words(parts: list[np.ndarray], words: list[str], sign_R: np.ndarray) -> dict[str, int]:
    """Word -> sign: the lexicon's, and adjectives found by "very X", whose sign the ratings tell (0: they do not)."""
    degree_V, content_V = _marked(words, _DEGREES), _content(words)
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
    return np.array([codes.get(singular(word), code) for code, word in enumerate(words)], dtype=np.int64)


def _noun_likeness(
    parts: list[np.ndarray], words: list[str], singular_V: np.ndarray, opinion_V: np.ndarray
) -> np.ndarray:
    """Share of noun-like occurrences [V], of all forms of a word together."""
    noun_cue_V = _marked(words, _DETERMINERS) | opinion_V
    other_cue_V = _marked(words, _VERB_CUES | _DEGREES | NEGATORS)
    content_V = _content(words)
    noun_V, other_V = np.zeros(len(words)), np.zeros(len(words))
    for ids_T in parts:
        word_T, before_T, after_T = singular_V[ids_T[1:-1]], ids_T[:-2], ids_T[2:]
        # Before another content word it may as well be an adjective: "a cheap cable".
        noun_V += np.bincount(word_T[noun_cue_V[before_T] & ~content_V[after_T]], minlength=len(words))
        other_V += np.bincount(word_T[other_cue_V[before_T]], minlength=len(words))
        other_V += MODIFIER * np.bincount(word_T[noun_cue_V[before_T] & content_V[after_T]], minlength=len(words))
    prior_V = np.array([_prior(word) for word in words])
    return (noun_V + PRIOR * prior_V) / (noun_V + other_V + PRIOR)


def _prior(word: str) -> float:
    """Noun-likeness by the ending; "cable" and "string" are too short for their ending to be one."""
    if word.endswith(_NOUN_ENDINGS):
        return 0.9
    other = any(word.endswith(ending) and len(word) >= len(ending) + LEAST_STEM for ending in _OTHER_ENDINGS)
    return 0.1 if other or word[:1].isdigit() else 0.55


class _Count(NamedTuple):
    """Of a run of words: the texts that hold it, that hold it with an opinion within reach, with one bound to it."""

    texts: int
    near: int
    bound: int


Run = tuple[int, ...]  # codes of words


def _count_candidates(
    parts: list[np.ndarray], words: list[str], singular_V: np.ndarray, opinion_V: np.ndarray, least: int
) -> tuple[dict[Run, _Count], dict[Run, int]]:
    """(counts of runs of singulars, texts that hold each of their forms), of content words that are not too rare."""
    content_V = _content(words)
    frequency_V = np.sum([np.bincount(singular_V[ids_T], minlength=len(words)) for ids_T in parts], axis=0)
    content_V &= frequency_V[singular_V] >= min(least, 2)
    kept = np.union1d(np.flatnonzero(content_V), singular_V[content_V])
    rank_V = np.searchsorted(kept, np.arange(len(words)))  # runs are numbered in these: three of them fit 64 bits
    bounds = _Bounds(words, opinion_V)
    found: list[list[np.ndarray]] = [[] for _ in range(LONGEST)]
    forms: list[list[np.ndarray]] = [[] for _ in range(LONGEST)]
    for ids_T in parts:
        near_cum, bound_before_T, bound_after_T, left_T, right_T = bounds.of(ids_T)
        text_T = np.cumsum(ids_T == 0)
        start = np.flatnonzero(content_V[ids_T])
        key, form = np.zeros(len(start), dtype=np.int64), np.zeros(len(start), dtype=np.int64)
        for length in range(1, LONGEST + 1):
            going = content_V[ids_T[start + length - 1]]
            start, last = start[going], ids_T[start[going] + length - 1]
            key = key[going] * len(kept) + rank_V[singular_V[last]]
            form = form[going] * len(kept) + rank_V[last]
            end = start + length
            low, high = np.maximum(start - REACH, left_T[start]), np.minimum(end + REACH, right_T[start])
            near = near_cum[high] - near_cum[low] > near_cum[end] - near_cum[start]
            bound = bound_before_T[start] | bound_after_T[end]
            found[length - 1].append(_by_run(key, text_T[start], (np.ones_like(near), near, bound)))
            forms[length - 1].append(_by_run(form, text_T[start], (np.ones_like(near),)))
    counts = {run: _Count(*row) for run, row in _merged(found, kept)}
    return counts, {run: row[0] for run, row in _merged(forms, kept)}


class _Bounds:
    """Where opinions stand near to and are bound to what, in a part."""

    def __init__(self, words: list[str], opinion_V: np.ndarray) -> None:
        self.opinion_V = opinion_V
        self.passes_V = _marked(words, _OPENERS) | _content(words)
        self.copula_V = _marked(words, _COPULAS)
        self.pause_V, self.end_V = _marked(words, PAUSES | {""}), _marked(words, ENDS | {""})

    def of(self, ids_T: np.ndarray) -> tuple[np.ndarray, ...]:
        """(opinions before each place [T + 1], bound from before [T], from after [T + 1], sentence start, end [T])."""
        size = len(ids_T)
        opinion_T, place = self.opinion_V[ids_T], np.arange(size)
        ends_T = self.end_V[ids_T]
        left_T = np.maximum.accumulate(np.where(ends_T, place, 0))
        right_T = np.minimum.accumulate(np.where(ends_T, place, size - 1)[::-1])[::-1]
        before_T = np.zeros(size, dtype=bool)
        before_T[1:] = opinion_T[:-1]
        before_T[2:] |= opinion_T[:-2] & self.passes_V[ids_T[1:-1]]
        pause_T = np.append(self.pause_V[ids_T], np.ones(LONGEST + 8, dtype=bool))
        opinion_ahead = np.append(opinion_T, np.zeros(LONGEST + 8, dtype=bool))
        copula_T = np.append(self.copula_V[ids_T], np.zeros(LONGEST + 8, dtype=bool))
        reached, open_ = np.zeros(size + 4, dtype=bool), np.ones(size + 4, dtype=bool)
        for step in range(5):  # an opinion up to four words after the copula, no pause between
            open_ &= ~pause_T[step : step + size + 4]
            reached |= open_ & opinion_ahead[step : step + size + 4]
        judged = copula_T[: size + 4] & reached
        after_T, open_ = judged[: size + 1].copy(), np.ones(size + 1, dtype=bool)
        for step in range(2):  # the copula up to two words after the run
            open_ &= ~pause_T[step : step + size + 1] & ~copula_T[step : step + size + 1]
            after_T |= open_ & judged[step + 1 : step + size + 2]
        return np.concatenate([[0], np.cumsum(opinion_T)]), before_T, after_T, left_T, right_T


def _by_run(key: np.ndarray, text: np.ndarray, marks: tuple[np.ndarray, ...]) -> np.ndarray:
    """Rows (key, texts that hold it where marked, by mark) of one part."""
    keys, index = np.unique(key, return_inverse=True)
    columns, size = [keys], np.int64(text.max(initial=0) + 1)
    for marked in marks:
        pair = np.unique(index[marked] * size + text[marked])
        columns.append(np.bincount(pair // size, minlength=len(keys)))
    return np.stack(columns, axis=1)


def _merged(found: list[list[np.ndarray]], kept: np.ndarray) -> Iterator[tuple[Run, list[int]]]:
    """(codes of a run, its counts over all parts)."""
    size = max(len(kept), 1)
    for length, rows in enumerate(found, start=1):
        table = np.concatenate(rows)
        keys, index = np.unique(table[:, 0], return_inverse=True)
        sums = [np.bincount(index, column, len(keys)).astype(np.int64) for column in table[:, 1:].T]
        codes = [kept[keys // size**power % size] for power in range(length - 1, -1, -1)]
        runs = zip(*(column.tolist() for column in codes), strict=True)
        yield from zip(runs, np.stack(sums, axis=1).tolist(), strict=True)


def _select(
    counts: dict[Run, _Count], noun_V: np.ndarray, opinion_V: np.ndarray, least: int, most: float
) -> dict[Run, _Count]:
    """The runs that are concepts."""

    def fits(run: Run, count: _Count) -> bool:
        *first, last = run
        if not least <= count.texts <= most or any(opinion_V[first]):
            return False
        if count.bound < max(1, BOUND_SHARE * count.texts) or count.near < NEAR_SHARE * count.texts:
            return False
        if noun_V[last] < (NOUN_JUDGES if opinion_V[last] else NOUN) or (first and noun_V[first[0]] < NOUN_FIRST):
            return False
        return not first or count.texts >= GLUE * min(counts[(word,)].texts for word in run)

    chosen = {run: count for run, count in counts.items() if fits(run, count)}
    inside: Counter[Run] = Counter()
    for run, count in chosen.items():
        for length in range(1, len(run)):
            for start in range(len(run) - length + 1):
                inside[run[start : start + length]] += count.texts
    return {run: count for run, count in chosen.items() if not inside[run] or count.texts - inside[run] >= least}


def _named(
    chosen: dict[Run, _Count], forms: dict[Run, int], words: list[str], singular_V: np.ndarray, top: int
) -> dict[tuple[str, ...], str]:
    """form -> name, its most frequent form, of the `top` most frequent concepts, in the order of their numbers."""
    forms_of: defaultdict[Run, list[tuple[int, tuple[str, ...]]]] = defaultdict(list)
    for form, texts in forms.items():
        run = tuple(singular_V[list(form)].tolist())
        if run in chosen:
            forms_of[run].append((-texts, tuple(words[code] for code in form)))
    named = sorted((-chosen[run].texts, " ".join(min(known)[1]), sorted(known)) for run, known in forms_of.items())
    return {form: name for _, name, known in named[:top] for _, form in known}
