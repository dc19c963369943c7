"""Which records enter a corpus: those of a span of time, of users and items with enough records."""

import datetime
from dataclasses import dataclass, field

import numpy as np

from datamodules.records import NO_TIME, BadRecord, LeftOut, Records
from metrics.errors import InputError


@dataclass(frozen=True)
class NarrowOptions:
    """Which records enter a corpus."""

    since: str = field(default="", metadata={"help": "leave out records before this day (YYYY-MM-DD, UTC)"})
    until: str = field(default="", metadata={"help": "leave out records after this day (YYYY-MM-DD, UTC)"})
    min_user: int = field(
        default=0, metadata={"help": "k-core: leave out users with fewer records, until all have as many; 0: off"}
    )
    min_item: int = field(
        default=0, metadata={"help": "k-core: leave out items with fewer records, until all have as many; 0: off"}
    )

    def __post_init__(self) -> None:
        for key in ("min_user", "min_item"):
            if getattr(self, key) < 0:
                raise InputError(f"{key}={getattr(self, key)} must be 0 (off) or more.")
        days = [_day(key, getattr(self, key)) for key in ("since", "until")]
        if None not in days and days[0] > days[1]:  # type: ignore[operator]
            raise InputError(f"since={self.since} must not lie after until={self.until}.")


def narrowed(records: Records, options: NarrowOptions, left_out: LeftOut) -> Records:
    """The records within the span of time, then the k-core of those; the others are counted."""
    return _core(_within(records, options, left_out), options, left_out)


def days(records: Records) -> list[str]:
    """The first and the last day (UTC) of the records that have a time; empty where none has."""
    time_R = records.time_R[records.time_R != NO_TIME]
    return [_day_of(int(time)) for time in (time_R.min(), time_R.max())] if len(time_R) else []


def _day_of(seconds: int) -> str:
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d")
    except (OverflowError, OSError, ValueError):  # beyond the calendar's last year
        return f"{seconds} seconds"


def _within(records: Records, options: NarrowOptions, left_out: LeftOut) -> Records:
    since, until = _day("since", options.since), _day("until", options.until)
    if since is None and until is None:
        return records
    timeless_R = records.time_R == NO_TIME
    for line in records.line_R[timeless_R].tolist():
        left_out.reject(BadRecord(line, "missing time", "has no time, which since and until need"))
    early_R = ~timeless_R & (records.time_R < since) if since is not None else np.zeros_like(timeless_R)
    late_R = ~timeless_R & (records.time_R >= until + 86_400) if until is not None else np.zeros_like(timeless_R)
    left_out.count(records.line_R[early_R].tolist(), "before since")
    left_out.count(records.line_R[late_R].tolist(), "after until")
    return records.where(~(timeless_R | early_R | late_R))


def _core(records: Records, options: NarrowOptions, left_out: LeftOut) -> Records:
    """Leaving out a user takes records from items, and the other way round: repeated until nothing changes."""
    keep_R = np.ones(len(records), dtype=bool)
    rare_user_R, rare_item_R = np.zeros_like(keep_R), np.zeros_like(keep_R)
    while True:
        before = int(keep_R.sum())
        for column, least, rare_R in (
            (records.user_R, options.min_user, rare_user_R),
            (records.item_R, options.min_item, rare_item_R),
        ):
            count = np.bincount(column[keep_R], minlength=int(column.max(initial=0)) + 1)
            rare_R |= keep_R & (count[column] < least)
            keep_R &= ~rare_R
        if int(keep_R.sum()) == before:
            break
    left_out.count(records.line_R[rare_user_R].tolist(), "user below min_user")
    left_out.count(records.line_R[rare_item_R].tolist(), "item below min_item")
    return records.where(keep_R)


def _day(key: str, text: str) -> int | None:
    """The first second of a day, UTC; None for an empty text."""
    if not text:
        return None
    try:
        day = datetime.date.fromisoformat(text)
    except ValueError:
        raise InputError(f"{key}={text} is no day: write YYYY-MM-DD.") from None
    return int(datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC).timestamp())
