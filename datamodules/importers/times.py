"""When a review was written, in whatever form a source tells it -> unix seconds."""

import math
from datetime import UTC, date, datetime
from typing import Any

from datamodules.importers.reading import LATEST, Row, Unusable, is_absent, text_of
from datamodules.records import is_no_value, normalised_id

# A number from here on counts thousandths, millionths or billionths of a second. As seconds the first would lie in the
# year 5138; as milliseconds it lies in March 1973, before any review.
UNITS = ((1e17, 1_000_000_000), (1e14, 1_000_000), (1e11, 1_000))
LAYOUTS = (
    *("%B %d, %Y", "%b %d, %Y", "%B %d %Y", "%b %d %Y", "%m %d, %Y", "%d %B %Y", "%d %b %Y", "%d-%b-%Y"),
    *("%Y/%m/%d", "%Y/%m/%d %H:%M:%S", "%Y-%m-%d %H:%M:%S UTC", "%Y-%m-%d %H:%M:%S.%f UTC"),
    *("%a, %d %b %Y %H:%M:%S %Z", "%a, %d %b %Y %H:%M:%S %z", "%a %b %d %H:%M:%S %z %Y"),
)
# Digits that spell a day: as seconds 20160222 would lie in 1970, 20160222110000 as milliseconds in 2608.
SPELLED = {8: "%Y%m%d", 14: "%Y%m%d%H%M%S"}
YEARS = range(1990, 2100)


def time_of(row: Row, key: str) -> int | None:
    """Unix seconds of a number (seconds, milli-, micro- or nanoseconds) or a date; None where the time is absent.

    Dates without a zone are UTC. Raises Unusable for anything else: "03/04/2016" is a day in March or in April.
    """
    value: Any = row.get(key)
    if is_absent(value):
        return None
    if isinstance(value, date):
        return seconds_of_date(value)
    text = normalised_id(text_of(row, key))
    if not text or is_no_value(text):
        return None
    try:
        spelled = _spelled(text)
        seconds: float | None = in_seconds(float(text)) if spelled is None else spelled
    except ValueError:
        seconds = _date(text)
    if seconds is None or not abs(seconds) < LATEST:
        raise Unusable(
            "unreadable time", f"'{key}' is '{text:.40}' where unix seconds, or a date as 2016-02-22, are due"
        )
    return int(seconds)


def in_seconds(number: float) -> float:
    """Seconds, where the number is so large that it must count a smaller unit."""
    if not math.isfinite(number):
        raise ValueError(f"{number} is no time")
    return next((number // parts for least, parts in UNITS if abs(number) >= least), number)


def seconds_of_date(value: date) -> int:
    """Unix seconds of a day or of an instant; UTC where it names no zone."""
    instant = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
    return int((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp())


def _spelled(digits: str) -> int | None:
    """The seconds of a day written in digits alone, or None."""
    if len(digits) not in SPELLED or not digits.isdecimal() or int(digits[:4]) not in YEARS:
        return None
    try:
        return seconds_of_date(datetime.strptime(digits, SPELLED[len(digits)]))
    except ValueError:
        return None


def _date(text: str) -> int | None:
    for layout in (None, *LAYOUTS):
        try:
            return seconds_of_date(datetime.strptime(text, layout) if layout else datetime.fromisoformat(text))
        except (ValueError, OverflowError):
            continue
    return None
