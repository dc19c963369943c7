"""Which concepts each record mentions, with opinion and polarity, where the source names none.

Whatever is fitted, is fitted on the texts and ratings of train alone, then looked up in all.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from datamodules.concepts import ConceptOptions
from datamodules.extraction import Extractor, Found, fit_extractor
from datamodules.importers.tokenising import tokenised
from datamodules.languages import is_english
from datamodules.noun_chunks import fit_noun_chunks
from datamodules.opinions import lexicon
from datamodules.records import Codes, Mentions, normalise
from datamodules.sentences import split_sentences
from metrics.errors import InputError

# Concepts by default: so many times the root of the number of train records. The field's data sets have 3 to 10 times
# the root (307 features for 8,745 records, 5,069 for 320,023).
TOP_A_ROOT = 4
LEAST_TOP = 100
ENGLISH_ALONE = "the extractor of concepts knows English, and the texts are in another language"
OWN_CONCEPTS = "give concepts of your own, in the column columns.concepts of a table, or by concept_source=list"


def rating_signs(rating_R: np.ndarray, low: float, high: float) -> np.ndarray:
    """-1, 0 or 1 [R]: below, at or above the middle of the scale."""
    return np.sign(rating_R - (low + high) / 2).astype(np.int8)


def fitted_extractor(
    texts: Sequence[str], sign_R: np.ndarray, train_R: np.ndarray, options: ConceptOptions, by_sentence: bool
) -> Extractor:
    """An extractor by `concept_source`, fitted on the train texts, or on each of their sentences as a text of its own.

    Frequencies count sentences where sentences are what is explained with: in whole reviews every feature is frequent.
    """
    rows = np.flatnonzero(train_R).tolist()
    whole: Iterator[tuple[Sequence[str], int]] = ((texts[row].lower().split(), int(sign_R[row])) for row in rows)
    parts = ((part, sign) for words, sign in whole for part in split_sentences(words))
    top = options.concept_top or max(LEAST_TOP, round(TOP_A_ROOT * len(rows) ** 0.5))
    fit = _FITS.get(options.concept_source, fit_extractor)
    return fit(parts if by_sentence else whole, replace(options, concept_top=top))


def why_none(
    texts: Sequence[str], sign_R: np.ndarray, train_R: np.ndarray, options: ConceptOptions, by_sentence: bool
) -> str:
    """Why `fitted_extractor` gives no concept, and what to do: by fits without either bound."""
    if options.concept_source == "list":
        return f"no text holds a concept of concept_list={options.concept_list}: list words as they stand in the texts"
    known = [text for text, is_train in zip(texts, train_R.tolist(), strict=True) if is_train]
    if options.concept_source != "spacy" and not is_english(known):
        return f"{ENGLISH_ALONE}: {OWN_CONCEPTS}"
    some = replace(options, concept_max_share=1.0, concept_top=2**31)
    every = replace(some, concept_min_count=1)
    counts = [
        len(fitted_extractor(texts, sign_R, train_R, bounds, by_sentence).concepts)
        for bounds in (some, every, replace(options, concept_min_count=1, concept_top=2**31))
    ]
    frequent, total, rare = counts
    if not total:
        return f"no term of the train texts is judged as concepts are: {OWN_CONCEPTS}"
    what = "sentences" if by_sentence else "texts"
    number = sum(len(list(split_sentences(text.lower().split()))) for text in known) if by_sentence else len(known)
    reasons, remedies = [], []
    if frequent:
        reasons.append(
            f"{frequent} in more than concept_max_share={options.concept_max_share:g} of the {number} train {what}"
        )
        remedies.append("raise concept_max_share (1: no bound)")
    if rare or not frequent:
        fewer = rare or total
        reasons.append(f"{fewer} in fewer than concept_min_count={options.concept_min_count} of them")
        remedies.append("lower concept_min_count, or give more records")
    return f"of the terms found {' and '.join(reasons)}: {', or '.join(remedies)}"


def listed(texts: Iterable[tuple[Sequence[str], int]], options: ConceptOptions) -> Extractor:
    """An extractor of the concepts of a user's list; nothing is fitted."""
    path = Path(options.concept_list)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"concept_list={path} cannot be read ({error}): give a text file, one concept a line."
        ) from None
    # Words and marks apart, as they stand in texts: "value/price" would never be found.
    names = list(dict.fromkeys(name for line in lines if (name := tokenised(normalise(line)))))
    if not names:
        raise InputError(f"concept_list={path} names no concept: write one a line.")
    return Extractor({tuple(name.split()): name for name in names}, dict(lexicon()))


_FITS: dict[str, Callable[[Iterable[tuple[Sequence[str], int]], ConceptOptions], Extractor]] = {
    "list": listed,
    "spacy": fit_noun_chunks,
}


def mentions_of(found_R: Iterable[list[Found]], sign_R: np.ndarray, concepts: list[str]) -> Mentions:
    """What was found in each record, in columns; an opinion whose sign is not known takes that of the rating."""
    size, concept, opinion, polarity = array("q", [0]), array("i"), array("i"), array("b")
    opinions = Codes()
    for found, sign in zip(found_R, sign_R.tolist(), strict=True):
        size.append(len(found))
        for mention in found:
            concept.append(mention.concept)
            opinion.append(opinions[mention.opinion])
            polarity.append(mention.polarity or sign)
    start = np.cumsum(np.array(size))
    return Mentions(start, np.array(concept), np.array(opinion), np.array(polarity), concepts, list(opinions))


def found_in(texts: Iterable[str], extractor: Extractor) -> Iterator[list[Found]]:
    """The concepts of each tokenised text."""
    return (extractor.find(text.lower().split()) for text in texts)
