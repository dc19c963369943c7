"""What the field's extractor (Sentires, by Sentires-Guide) writes: whole reviews, each with the quadruples found in it.

    {"user", "item", "rating", "text", "sentence": [(feature, opinion, sentence, sentiment), ...]}

The published data sets keep one sentence a review, and so is it here: the explanation is the sentence of which a
quadruple agrees with the rating, of several the one with the most quadruples, of several the first; its quadruples are
the mentions. (The extractor lists praise first: without the rating the first sentence of a bad review would be praise.)
Sentences come as written and are tokenised. A review without a quadruple explains nothing: it is left out and counted.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.importers.markup import tokenised_review
from datamodules.importers.reading import Row, Unusable, is_absent, polarity_of, text_of
from datamodules.importers.tokenising import tokenised
from datamodules.records import BadRecord, RawRecord
from metrics.errors import InputError

NO_FEATURE = "no sentence with a feature"
_NAMES = ("feature", "opinion", "sentence", "sentiment")


class Quadruple(NamedTuple):
    """One opinion on one feature in one sentence."""

    feature: str
    opinion: str
    sentence: str
    polarity: int


def has_quadruples(row: Row) -> bool:
    """Is it a review as the extractor writes it? One in which nothing was found has no `sentence`."""
    sentence = row.get("sentence")
    if isinstance(sentence, list):
        return True
    return is_absent(sentence) and "text" in row and not {"feature", "template"} & set(row)


def chosen(row: Row, sign: int) -> tuple[str, list[tuple[str, str, int]], bool]:
    """(the sentence that explains, its mentions, whether markup was taken out); `sign` is that of the rating.

    Raises Unusable.
    """
    entries = row.get("sentence") or []
    if entries and all(not isinstance(entry, list) for entry in entries):
        entries = [entries]  # a single quadruple
    by_sentence: dict[str, dict[Quadruple, None]] = {}
    for entry in entries:
        quadruple = _quadruple(entry, sign)
        by_sentence.setdefault(quadruple.sentence, {})[quadruple] = None
    if not by_sentence:
        raise Unusable(NO_FEATURE, "has no quadruple of feature, opinion, sentence and sentiment", False)

    def worth(sentence: str) -> tuple[bool, int]:
        own = by_sentence[sentence]
        return any(quadruple.polarity == sign for quadruple in own), len(own)

    best = max(by_sentence, key=worth)  # of equals the first
    mentions = [(tokenised(one.feature), tokenised(one.opinion), one.polarity) for one in by_sentence[best]]
    explanation, cleaned = tokenised_review(best)
    return explanation, mentions, cleaned


def checked(records: Iterator[RawRecord | BadRecord], path: Path) -> Iterator[RawRecord | BadRecord]:
    """The records. Raises InputError at the end of a file in which no review has a quadruple."""
    read, without = 0, 0
    for record in records:
        read += isinstance(record, RawRecord)
        without += isinstance(record, BadRecord) and record.reason == NO_FEATURE
        yield record
    if without and not read:
        raise InputError(
            f"{path} names no feature in any of {without} reviews: extract them first, or give the reviews as a table "
            "(format=table), in which features are found."
        )


def _quadruple(entry: Any, sign: int) -> Quadruple:
    if not isinstance(entry, list) or len(entry) not in (3, 4):
        raise Unusable("unreadable line", f"'sentence' holds {entry!r:.60} where a list of {', '.join(_NAMES)} is due")
    row = dict(zip(_NAMES, entry, strict=False))
    sentiment = row.get("sentiment")
    return Quadruple(
        text_of(row, "feature"),
        text_of(row, "opinion"),
        text_of(row, "sentence"),
        sign if is_absent(sentiment) else polarity_of(sentiment),
    )
