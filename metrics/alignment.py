"""Which prediction of one file is of the same record as which of another."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from metrics.columns import Predictions
from metrics.errors import InputError
from metrics.texts import strings


def align(files: Mapping[str, Predictions]) -> list[Predictions]:
    """The predictions of each file (name -> what it holds) in the order of the first file's.

    Records are matched by `record` where every line of every file has one, else by `user` and `item` where they name
    each line of a file once, else by line. Raises InputError where one file has what another lacks, or where the
    references of one record differ: then the files are not of the same test records.
    """
    names = list(files)
    by = next(by for by in ("record", "pair", "line") if by == "line" or all(_unique(f, by) for f in files.values()))
    first = files[names[0]]
    aligned = [first]
    for name in names[1:]:
        other = _in_order(names[0], first, name, files[name], by)
        if not other.references.equals(first.references):
            raise InputError(_differing(names[0], first, name, other, by))
        aligned.append(replace(other, references=first.references))  # the same texts need not be kept twice
    return aligned


def _in_order(first_name: str, first: Predictions, name: str, other: Predictions, by: str) -> Predictions:
    if by == "line":
        if len(first) != len(other):
            raise InputError(
                f"{first_name} has {len(first)} predictions and {name} has {len(other)}, and they have no common ids "
                "to match by; give files of the same records, or a `record` for each line."
            )
        return other
    index = {key: place for place, key in enumerate(_keys(other, by))}
    own = list(_keys(first, by))
    for one, two, lacking in ((first_name, name, set(own) - index.keys()), (name, first_name, index.keys() - set(own))):
        if lacking:
            example = min(lacking, key=str)
            raise InputError(
                f"{two} lacks {len(lacking)} of the records of {one}, such as {example!r}; give predictions of the "
                "same test records."
            )
    return other.take(np.fromiter((index[key] for key in own), np.int64, len(own)))


def _keys(predictions: Predictions, by: str) -> Iterator[str | tuple[str, str]]:
    if by == "record":
        return map(str, predictions.ids["record"].told())
    users, items = (map(str, predictions.ids[key].told()) for key in ("user", "item"))
    return zip(users, items, strict=True)


def _unique(predictions: Predictions, by: str) -> bool:
    if any(predictions.ids[key].absent for key in (("record",) if by == "record" else ("user", "item"))):
        return False
    return len(set(_keys(predictions, by))) == len(predictions)


def _differing(first_name: str, first: Predictions, name: str, other: Predictions, by: str) -> str:
    """The first record whose references differ."""
    sides = (strings(side.references) for side in (first, other))
    pairs = enumerate(zip(*sides, _keys(first, by) if by != "line" else first.line_N, strict=True), start=1)
    number, (ours, theirs, key) = next(entry for entry in pairs if entry[1][0] != entry[1][1])
    what = f"line {number}" if by == "line" else f"record {key!r}"
    return (
        f"{first_name} and {name} have other references for {what}: {_short(ours)} and {_short(theirs)}; give "
        "predictions of the same test records."
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")
