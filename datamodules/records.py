"""Raw records: what importers yield, the checks each one passes, and the account of those left out."""

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from datamodules.corpus import SPLITS
from metrics.errors import InputError

SPLIT_NAMES = {"train": 0, "valid": 1, "validation": 1, "val": 1, "dev": 1, "test": 2}
LINES_SHOWN = 5  # line numbers kept in the manifest for each reason
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")  # those of Unicode class Cc that are no white space
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


class BadRecord(NamedTuple):
    """What an importer yields for a line that gives no record."""

    line: int
    reason: str  # a few words, the same for all such lines: what is counted
    detail: str  # what is wrong with this line


class LeftOut:
    """The records that do not enter the corpus, by reason; under the policy `error` a bad one stops the build."""

    def __init__(self, file: str, policy: str) -> None:
        self.file = file
        self._policy = policy
        self._lines: defaultdict[str, list[int]] = defaultdict(list)

    def reject(self, bad: BadRecord) -> None:
        """Count a bad record, or raise InputError under the policy `error`."""
        if self._policy == "error":
            raise InputError(
                f"{self.file}:{bad.line}: {bad.detail}; mend the line, "
                "or leave such records out with on_bad_record=skip."
            )
        self.count(bad.line, bad.reason)

    def count(self, line: int, reason: str) -> None:
        """Count a record that an option asked to leave out."""
        self._lines[reason].append(line)

    def by_reason(self) -> dict[str, dict[str, Any]]:
        """reason -> {count, lines: the first few line numbers}."""
        return {
            reason: {"count": len(lines), "lines": lines[:LINES_SHOWN]} for reason, lines in sorted(self._lines.items())
        }

    def summary(self) -> str:
        """The reasons in one phrase."""
        reasons = [f"{entry['count']} left out ({reason})" for reason, entry in self.by_reason().items()]
        return ", ".join(reasons) or "it is empty"


def accepted(
    raw: Iterable[RawRecord | BadRecord], rating_min: float, rating_max: float, left_out: LeftOut
) -> list[RawRecord]:
    """Normalised records without a fault, in order; the first of a (user, item) pair wins.

    Either all of them have a split or none has: where some do, those without are faulty.
    """
    kept: dict[tuple[str, str], RawRecord] = {}
    for entry in raw:
        if isinstance(entry, BadRecord):
            left_out.reject(entry)
            continue
        record = _normalised(entry)
        pair = (record.user, record.item)
        fault = next(_faults(record, rating_min, rating_max), None)
        if fault is None and pair in kept:
            detail = f"user {record.user} and item {record.item} already stand in line {kept[pair].line}"
            fault = ("duplicate user and item", detail)
        if fault is None:
            kept[pair] = record
        else:
            left_out.reject(BadRecord(record.line, *fault))
    return _with_one_kind_of_split(list(kept.values()), left_out)


def normalise(text: str) -> str:
    """Unicode NFC, control characters removed, white space collapsed to single blanks."""
    return " ".join(_CONTROL.sub("", unicodedata.normalize("NFC", text)).split())


def _normalised(record: RawRecord) -> RawRecord:
    """Concepts are lower-cased: they are found in texts whatever their case, and two spellings are one concept."""
    mentions = record.mentions
    if mentions is not None:
        mentions = [(normalise(name).lower(), normalise(opinion), polarity) for name, opinion, polarity in mentions]
    return record._replace(
        explanation=normalise(record.explanation), mentions=mentions, item_title=normalise(record.item_title)
    )


def _faults(record: RawRecord, low: float, high: float) -> Iterator[tuple[str, str]]:
    """(reason, detail) of each fault of a normalised record."""
    mentions = record.mentions or []
    words = " ".join(concept + opinion for concept, opinion, _ in mentions)
    if any(map(_SURROGATE.search, (record.user, record.item, record.explanation, record.item_title, words))):
        yield "not UTF-8", "holds bytes or escapes that are not valid UTF-8 text"
    for key, name in (("user", record.user), ("item", record.item)):
        if not name.strip():
            yield "missing key", f"the {key} is empty"
    if not math.isfinite(record.rating):
        yield "rating not finite", f"rating {record.rating} is not a finite number"
    if not low <= record.rating <= high:
        yield (
            "rating out of range",
            f"rating {record.rating:g} lies outside {low:g} to {high:g} (keys rating_min and rating_max)",
        )
    if not record.explanation:
        yield "empty explanation", "the explanation is empty"
    for concept, _, polarity in mentions:
        if not concept:
            yield "empty concept", "a concept is empty"
        if polarity not in (-1, 0, 1):
            yield "unknown polarity", f"polarity {polarity} of '{concept}' is none of -1, 0, 1"
    if record.split is not None and record.split not in SPLIT_NAMES:
        yield "unknown split", f"split '{record.split}' is none of {', '.join(SPLITS)}"


def _with_one_kind_of_split(records: list[RawRecord], left_out: LeftOut) -> list[RawRecord]:
    if all(record.split is None for record in records):
        return records
    for record in records:
        if record.split is None:
            left_out.reject(BadRecord(record.line, "missing split", "has no split although other records have one"))
    return [record for record in records if record.split is not None]
