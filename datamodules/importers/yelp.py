"""Yelp Open Dataset, 2019 and later: yelp_academic_dataset_{review,business,user}.json, one JSON object a line.

    review     user_id, business_id, stars, text, date ("2018-07-07 22:09:11", or a day)
    business   business_id, name, categories ("Thai, Bars"), city, state
    user       user_id, yelping_since

A user's review_count, average_stars and the like are counted over all reviews, those of test included: not kept. Names
of persons are not kept either.
"""

from collections.abc import Iterator
from pathlib import Path

from datamodules.importers.markup import plain, tokenised_review
from datamodules.importers.reading import Row, optional_text, parsed, rating_of, read_json_lines, text_of
from datamodules.importers.times import time_of
from datamodules.records import BadRecord, Facts, RawRecord


def read(path: Path) -> Iterator[RawRecord | BadRecord]:
    """The reviews of a file, plain, gzip or zstd."""
    return parsed(read_json_lines(path), _review)


def read_items(path: Path) -> Iterator[Facts | BadRecord]:
    """Names, categories and places of businesses."""
    return parsed(read_json_lines(path), _business)


def read_users(path: Path) -> Iterator[Facts | BadRecord]:
    """Since when users have been there."""
    return parsed(read_json_lines(path), _user)


def _review(line: int, row: Row) -> RawRecord:
    explanation, cleaned = tokenised_review(text_of(row, "text"))
    return RawRecord(
        line=line,
        user=text_of(row, "user_id"),
        item=text_of(row, "business_id"),
        rating=rating_of(row, "stars"),
        explanation=explanation,
        mentions=None,
        time=time_of(row, "date"),
        cleaned=cleaned,
    )


def _business(line: int, row: Row) -> Facts:
    categories = [part.strip() for part in (optional_text(row, "categories") or "").split(",") if part.strip()]
    attributes = {"categories": categories, "city": optional_text(row, "city"), "state": optional_text(row, "state")}
    kept = {name: value for name, value in attributes.items() if value}
    return Facts(text_of(row, "business_id"), plain(optional_text(row, "name") or ""), kept)


def _user(line: int, row: Row) -> Facts:
    since = optional_text(row, "yelping_since")
    return Facts(text_of(row, "user_id"), "", {"yelping_since": since} if since else {})
