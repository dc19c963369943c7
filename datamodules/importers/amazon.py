"""Amazon product reviews (McAuley and others), one JSON object a line: reviews_X_5.json.gz of 2014, X_5.json.gz of
2018, X.jsonl.gz of 2023, each with its meta_X file.

    2014, 2018   reviewerID, asin, overall, reviewText, unixReviewTime
    2023         user_id, parent_asin (or asin), rating, text, timestamp (milliseconds)
    metadata     asin or parent_asin, title, brand or store, categories or category, price

Lines of Python literals instead of JSON, as the metadata of 2014 has them, are read as literals: nothing is evaluated.
"""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.importers.markup import plain, tokenised_review
from datamodules.importers.reading import (
    Row,
    Unusable,
    optional_text,
    parsed,
    rating_of,
    read_json_lines,
    text_of,
)
from datamodules.importers.times import time_of
from datamodules.records import BadRecord, Facts, RawRecord

LONGEST_LITERAL = 1 << 20  # characters of a line of Python literals


def read(path: Path) -> Iterator[RawRecord | BadRecord]:
    """The reviews of a file, plain, gzip or zstd."""
    return parsed(read_json_lines(path, _literal_or_json), _review)


def read_items(path: Path) -> Iterator[Facts | BadRecord]:
    """Titles, brands, categories and prices of a metadata file."""
    return parsed(read_json_lines(path, _literal_or_json), _item)


def _literal_or_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        if len(text) > LONGEST_LITERAL or not text.lstrip().startswith("{'"):
            raise
    try:
        return ast.literal_eval(text.strip())
    except (SyntaxError, MemoryError) as error:
        raise ValueError(str(error)) from None


def _review(line: int, row: Row) -> RawRecord:
    if "reviewerID" in row:
        user, item, rating, text, time = "reviewerID", "asin", "overall", "reviewText", "unixReviewTime"
    else:
        item = "parent_asin" if "parent_asin" in row else "asin"
        user, rating, text, time = "user_id", "rating", "text", "timestamp"
    explanation, cleaned = tokenised_review(text_of(row, text))
    return RawRecord(
        line=line,
        user=text_of(row, user),
        item=text_of(row, item),
        rating=rating_of(row, rating),
        explanation=explanation,
        mentions=None,
        time=time_of(row, time),
        cleaned=cleaned,
    )


def _item(line: int, row: Row) -> Facts:
    key = "parent_asin" if "parent_asin" in row else "asin"
    categories = row.get("categories") or row.get("category") or []
    if not isinstance(categories, list):
        raise Unusable("wrong type", f"categories are {categories!r:.40} where a list is due")
    flat = [part for entry in categories for part in (entry if isinstance(entry, list) else [entry])]
    attributes = {
        "brand": optional_text(row, "brand" if "brand" in row else "store"),
        "categories": list(dict.fromkeys(str(part) for part in flat)),
        "price": optional_text(row, "price"),
    }
    title = plain(optional_text(row, "title") or "")
    return Facts(text_of(row, key), title, {name: value for name, value in attributes.items() if value})
