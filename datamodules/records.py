"""Raw records: what importers yield, the checks each one passes, and the account of those left out.

What passes is kept in columns: a million records are then a few arrays and one list of texts.

Shape suffixes: R records, M mentions.
"""

import math
import re
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from datamodules.corpus import SPLITS
from metrics.errors import InputError

SPLIT_NAMES = {"train": 0, "valid": 1, "validation": 1, "val": 1, "dev": 1, "test": 2}
NO_SPLIT = -1
NO_TIME = np.iinfo(np.int64).min
LINES_SHOWN = 5  # line numbers kept in the manifest for each reason
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")  # those of Unicode class Cc that are no white space
_UNSEEN = " \u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
_DECIMALS = re.compile(r"^(-?[0-9]{1,40})\.0+$")
# How tables say that there is no value: pandas, SQL, spreadsheets, Python and JavaScript.
NO_VALUE = frozenset(
    (
        *(
            "nan",
            "-nan",
            "none",
            "null",
            "(null)",
            "#null!",
            "<na>",
            "n/a",
            "#n/a",
            "#n/a n/a",
            "#na",
            "nat",
            "undefined",
        ),
        *("\\n", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"),
    )
)
# The word of R; in small letters it is a name.
_NO_VALUE_OF_R = "NA"
# A spreadsheet or a float has rounded such a number: many ids became this one.
_ROUNDED = re.compile(r"-?\d(?:\.\d+)?[eE]\+\d+|-?\d{16,}\.0+")
_LARGEST_EXACT = 2**53  # of whole numbers that a float holds one by one
# By these names sources show many authors as one, who would be the most active user of the corpus.
ANONYMOUS = frozenset(
    (
        *("anonymous", "anonymous user", "anonymoususer", "unknown", "guest", "guest user"),
        *("a tripadvisor member", "tripadvisor member", "lass=", "a google user", "google user"),
        *("amazon customer", "a customer", "kindle customer", "[deleted]", "[removed]", "deleted user"),
    )
)
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # what bytes that are not UTF-8 decode to


class RawRecord(NamedTuple):
    """One explained rating as an importer read it; `mentions` is None where the source names no concepts."""

    line: int
    user: str
    item: str
    rating: float
    explanation: str
    mentions: list[tuple[str, str, int]] | None  # (concept, opinion word, polarity)
    split: str | None = None
    time: int | None = None  # unix seconds
    item_title: str = ""
    cleaned: bool = False  # whether markup was taken out of the explanation


class BadRecord(NamedTuple):
    """What an importer yields for a line that gives no record."""

    line: int
    reason: str  # a few words, the same for all such lines: what is counted
    detail: str  # what is wrong with this line
    is_fault: bool = True  # what is usual for its source is counted and stops nothing


class Facts(NamedTuple):
    """What a side file tells of one user or item; for a user there is no title."""

    id: str
    title: str
    attributes: dict[str, Any]


class LeftOut:
    """The records that do not enter the corpus, by reason; under the policy `error` a bad one stops the build."""

    def __init__(self, file: str, policy: str) -> None:
        self.file = file
        self._policy = policy
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._lines: defaultdict[str, list[int]] = defaultdict(list)

    def reject(self, bad: BadRecord) -> None:
        """Count a bad record, or raise InputError under the policy `error` where it is a fault."""
        if self._policy == "error" and bad.is_fault:
            raise InputError(
                f"{self.file}:{bad.line}: {bad.detail}; mend the line, "
                "or leave such records out with on_bad_record=skip."
            )
        self.count([bad.line], bad.reason)

    def count(self, lines: Sequence[int], reason: str) -> None:
        """Count records, given in their order, that an option asked to leave out."""
        if len(lines):
            self._counts[reason] += len(lines)
            room = LINES_SHOWN - len(self._lines[reason])
            self._lines[reason] += list(lines[:room])

    def by_reason(self) -> dict[str, dict[str, Any]]:
        """reason -> {count, lines: the first few line numbers}."""
        return {
            reason: {"count": self._counts[reason], "lines": self._lines[reason]} for reason in sorted(self._counts)
        }

    def summary(self) -> str:
        """The reasons in one phrase."""
        reasons = [f"{entry['count']} left out ({reason})" for reason, entry in self.by_reason().items()]
        return ", ".join(reasons) or "it is empty"


class Codes(dict[str, int]):
    """Text -> its number, in order of first appearance."""

    def __missing__(self, text: str) -> int:
        self[text] = code = len(self)
        return code


@dataclass(frozen=True, eq=False)
class Mentions:
    """The mentions of R records in columns: those of record r lie at `start[r]` to `start[r + 1]`."""

    start: np.ndarray  # int64 [R + 1]
    concept_M: np.ndarray  # int32, index into `concepts`
    opinion_M: np.ndarray  # int32, index into `opinions`
    polarity_M: np.ndarray  # int8
    concepts: list[str]
    opinions: list[str]

    @property
    def record_M(self) -> np.ndarray:
        """The record of each mention."""
        return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))

    def where(self, keep_M: np.ndarray) -> "Mentions":
        """The mentions that `keep_M` marks, of the same records."""
        start = np.concatenate([[0], np.cumsum(keep_M)])[self.start]
        columns = (self.concept_M[keep_M], self.opinion_M[keep_M], self.polarity_M[keep_M])
        return Mentions(start, *columns, self.concepts, self.opinions)

    def rows(self, keep_R: np.ndarray) -> "Mentions":
        """The mentions of the records that `keep_R` marks."""
        size_R = np.diff(self.start)
        kept = self.where(np.repeat(keep_R, size_R))
        return replace(kept, start=np.concatenate([[0], np.cumsum(size_R[keep_R])]))


@dataclass(frozen=True, eq=False)
class Records:
    """Checked records in columns."""

    line_R: np.ndarray  # int64
    user_R: np.ndarray  # int64, index into `users`
    item_R: np.ndarray
    rating_R: np.ndarray  # float64
    split_R: np.ndarray  # int8, index into SPLITS or NO_SPLIT
    time_R: np.ndarray  # int64 unix seconds or NO_TIME
    explanations: list[str]
    mentions: Mentions | None  # None where no record names any
    users: list[str]
    items: list[str]
    titles: dict[int, str]  # by index into `items`
    cleaned_R: np.ndarray  # bool, whether markup was taken out of the explanation

    def __len__(self) -> int:
        return len(self.user_R)

    def where(self, keep_R: np.ndarray) -> "Records":
        """The records that `keep_R` marks; users and items keep their indices."""
        if keep_R.all():
            return self
        columns = {name: getattr(self, name)[keep_R] for name in _COLUMNS}
        return replace(
            self,
            **columns,
            explanations=[self.explanations[row] for row in np.flatnonzero(keep_R).tolist()],
            mentions=self.mentions.rows(keep_R) if self.mentions is not None else None,
        )


_COLUMNS = ("line_R", "user_R", "item_R", "rating_R", "split_R", "time_R", "cleaned_R")


class _Growing:
    """The columns of `Records` while records arrive."""

    def __init__(self) -> None:
        self.line, self.user, self.item, self.time = array("q"), array("q"), array("q"), array("q")
        self.rating, self.split, self.cleaned = array("d"), array("b"), array("b")
        self.explanations: list[str] = []
        self.users, self.items, self.concepts, self.opinions = Codes(), Codes(), Codes(), Codes()
        self.titles: dict[int, str] = {}
        self.named = False
        self.size, self.concept, self.opinion, self.polarity = array("q"), array("i"), array("i"), array("b")

    def add(self, record: RawRecord, user: int, item: int) -> None:
        self.line.append(record.line)
        self.user.append(user)
        self.item.append(item)
        self.rating.append(record.rating)
        self.split.append(NO_SPLIT if record.split is None else SPLIT_NAMES[record.split])
        self.time.append(NO_TIME if record.time is None else record.time)
        self.cleaned.append(record.cleaned)
        self.explanations.append(record.explanation)
        if record.item_title:
            self.titles.setdefault(item, record.item_title)
        self.named = self.named or record.mentions is not None
        self.size.append(len(record.mentions or ()))
        for concept, opinion, polarity in record.mentions or ():
            self.concept.append(self.concepts[concept])
            self.opinion.append(self.opinions[opinion])
            self.polarity.append(polarity)

    def finish(self) -> Records:
        start = np.concatenate([[0], np.cumsum(np.array(self.size, dtype=np.int64))])
        concept_M, opinion_M, polarity_M = np.array(self.concept), np.array(self.opinion), np.array(self.polarity)
        names = list(self.concepts), list(self.opinions)
        return Records(
            line_R=np.array(self.line),
            user_R=np.array(self.user),
            item_R=np.array(self.item),
            rating_R=np.array(self.rating),
            split_R=np.array(self.split),
            time_R=np.array(self.time),
            explanations=self.explanations,
            mentions=Mentions(start, concept_M, opinion_M, polarity_M, *names) if self.named else None,
            users=list(self.users),
            items=list(self.items),
            titles=self.titles,
            cleaned_R=np.array(self.cleaned, dtype=bool),
        )


def accepted(raw: Iterable[RawRecord | BadRecord], rating_min: float, rating_max: float, left_out: LeftOut) -> Records:
    """Normalised records without a fault, in order; the first of a (user, item) pair wins.

    Either all of them have a split or none has: where some do, those without are faulty.
    """
    kept = _Growing()
    line_of: dict[int, int] = {}
    for entry in raw:
        if isinstance(entry, BadRecord):
            left_out.reject(entry)
            continue
        record = _normalised(entry)
        fault = _fault(record, rating_min, rating_max)
        if fault is not None:
            left_out.reject(BadRecord(record.line, *fault))
            continue
        if record.user.casefold() in ANONYMOUS:
            left_out.count([record.line], "anonymous author")
            continue
        user, item = kept.users[record.user], kept.items[record.item]
        pair = user << 32 | item
        if pair in line_of:
            detail = f"user {record.user} and item {record.item} already stand in line {line_of[pair]}"
            left_out.reject(BadRecord(record.line, "duplicate user and item", detail))
            continue
        line_of[pair] = record.line
        kept.add(record, user, item)
    return _with_one_kind_of_split(kept.finish(), left_out)


def normalise(text: str) -> str:
    """Unicode NFC, control characters removed, white space collapsed to single blanks."""
    if text.isascii() and text.isprintable() and "  " not in text and text == text.strip():
        return text
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if not text.isprintable():
        text = _CONTROL.sub("", text)
    return " ".join(text.split())


def normalised_id(text: str) -> str:
    """The id of a user or an item: as `normalise`, without what is not seen at its ends; "3.0" is "3".

    Spreadsheets and data frames add blanks, byte order marks and decimals; an id must not differ by them.
    """
    if text.isalnum() and text.isascii():
        return text
    text = normalise(text).strip(_UNSEEN)
    number = _DECIMALS.match(text)
    # What is larger was rounded, and is refused as it stands.
    return number[1] if number and abs(int(number[1])) < _LARGEST_EXACT else text


def is_no_value(text: str) -> bool:
    """An empty text, or a word by which tables say that there is no value."""
    return not text or text.casefold() in NO_VALUE or text == _NO_VALUE_OF_R


@lru_cache(maxsize=1 << 16)
def _names(concept: str, opinion: str) -> tuple[str, str]:
    return normalise(concept).lower(), normalise(opinion)


def _normalised(record: RawRecord) -> RawRecord:
    """Concepts are lower-cased: they are found in texts whatever their case, and two spellings are one concept."""
    mentions = record.mentions
    if mentions is not None:
        mentions = [(*_names(concept, opinion), polarity) for concept, opinion, polarity in mentions]
    return record._replace(
        user=normalised_id(record.user),
        item=normalised_id(record.item),
        explanation=normalise(record.explanation),
        mentions=mentions,
        item_title=normalise(record.item_title),
    )


def _no_value(text: str) -> str:
    return f"'{text}', which stands for no value" if text else "empty"


def _fault_of_id(key: str, name: str) -> tuple[str, str] | None:
    if is_no_value(name):
        return "missing key", f"the {key} is {_no_value(name)}"
    if _ROUNDED.fullmatch(name):
        detail = f"the {key} is {name:.40}, a number that was rounded, so that many ids became one"
        return "rounded id", f"{detail}: write ids as whole numbers or as texts"
    return None


def _fault(record: RawRecord, low: float, high: float) -> tuple[str, str] | None:
    """(reason, detail) of the first fault of a normalised record."""
    mentions = record.mentions or ()
    texts = record.user + record.item + record.explanation + record.item_title
    for concept, opinion, _ in mentions:
        texts += concept + opinion
    if not texts.isascii() and _SURROGATE.search(texts):
        return "not UTF-8", "holds bytes or escapes that are not valid UTF-8 text"
    for key, name in (("user", record.user), ("item", record.item)):
        if (fault := _fault_of_id(key, name)) is not None:
            return fault
    if not math.isfinite(record.rating):
        return "rating not finite", f"rating {record.rating} is not a finite number"
    if not low <= record.rating <= high:
        detail = f"rating {record.rating:g} lies outside {low:g} to {high:g} (keys rating_min and rating_max)"
        return "rating out of range", detail
    if is_no_value(record.explanation.replace(" ", "")):  # "n/a" is tokenised to "n / a"
        return "empty explanation", f"the explanation is {_no_value(record.explanation)}"
    for concept, _, polarity in mentions:
        if not concept:
            return "empty concept", "a concept is empty"
        if polarity not in (-1, 0, 1):
            return "unknown polarity", f"polarity {polarity} of '{concept}' is none of -1, 0, 1"
    if record.split is not None and record.split not in SPLIT_NAMES:
        return "unknown split", f"split '{record.split}' is none of {', '.join(SPLITS)}"
    return None


def _with_one_kind_of_split(records: Records, left_out: LeftOut) -> Records:
    has_R = records.split_R != NO_SPLIT
    if has_R.any():
        for line in records.line_R[~has_R].tolist():
            left_out.reject(BadRecord(line, "missing split", "has no split although other records have one"))
        return records.where(has_R)
    return records
