"""TripAdvisor hotel reviews, one JSON object a line, in two public layouts.

HotelRec (Antognini and Faltings 2020)      author, hotel_url, rating, text, date ("2016-02-22T00:00:00" or a day)
review.txt (Roshchina and others 2015)      author.id or author.username, offering_id, ratings.overall, text,
                                            date ("December 17, 2012")
offering.txt, its hotels                    id, name, hotel_class, address.locality
"""

from collections.abc import Iterator
from pathlib import Path

from datamodules.importers.markup import plain, tokenised_review
from datamodules.importers.reading import (
    Row,
    Unusable,
    is_absent,
    optional_text,
    parsed,
    rating_of,
    read_json_lines,
    text_of,
)
from datamodules.importers.times import time_of
from datamodules.records import BadRecord, Facts, RawRecord


def read(path: Path) -> Iterator[RawRecord | BadRecord]:
    """The reviews of a file, plain, gzip or zstd."""
    return parsed(read_json_lines(path), _review)


def read_items(path: Path) -> Iterator[Facts | BadRecord]:
    """Names, classes and towns of hotels."""
    return parsed(read_json_lines(path), _hotel)


def _review(line: int, row: Row) -> RawRecord:
    if "hotel_url" in row:
        user, item, rating = _named(row, "author"), text_of(row, "hotel_url"), rating_of(row, "rating")
    else:
        author, ratings = _object(row, "author"), _object(row, "ratings")
        user = _named(author, "id" if author.get("id") else "username")
        item, rating = text_of(row, "offering_id"), rating_of(ratings, "overall")
    text, cleaned = tokenised_review(text_of(row, "text"))
    return RawRecord(line, user, item, rating, text, mentions=None, time=time_of(row, "date"), cleaned=cleaned)


def _named(row: Row, key: str) -> str:
    """The author; an empty one is usual here, as sites hide who wrote, and is no fault."""
    if key in row and is_absent(row[key]):
        raise Unusable("anonymous author", f"'{key}' is empty", False)
    return text_of(row, key)


def _hotel(line: int, row: Row) -> Facts:
    place = row.get("address")
    town = optional_text(place, "locality") if isinstance(place, dict) else None
    attributes = {"hotel_class": optional_text(row, "hotel_class"), "town": town}
    kept = {name: value for name, value in attributes.items() if value}
    return Facts(text_of(row, "id"), plain(optional_text(row, "name") or ""), kept)


def _object(row: Row, key: str) -> Row:
    value = row.get(key)
    if not isinstance(value, dict):
        raise Unusable("missing key", f"'{key}' is {value!r:.40} where an object is due")
    return value
