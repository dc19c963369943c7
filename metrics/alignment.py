"""Which prediction of one file is of the same record as which of another."""

from collections.abc import Callable
from typing import Any

from metrics.errors import InputError

Predictions = list[dict[str, Any]]


def align(files: dict[str, Predictions]) -> list[Predictions]:
    """The predictions of each file (name -> its lines) in the order of the first file's.

    Records are matched by `record` where every line of every file has one, else by `user` and `item` where they name
    each line of a file once, else by line. Raises InputError where one file has what another lacks, or where the
    references of one record differ: then the files are not of the same test records.
    """
    names = list(files)
    key = next(
        key for key in (_by_record, _by_pair, None) if key is None or all(_unique(f, key) for f in files.values())
    )
    first = files[names[0]]
    aligned = [first]
    for name in names[1:]:
        aligned.append(_in_order(names[0], first, name, files[name], key))
        for number, (ours, theirs) in enumerate(zip(first, aligned[-1], strict=True), start=1):
            if ours["reference"] != theirs["reference"]:
                what = _told(ours, number, key)
                raise InputError(
                    f"{names[0]} and {name} have other references for {what}: {_short(ours['reference'])} and "
                    f"{_short(theirs['reference'])}; give predictions of the same test records."
                )
    return aligned


def _in_order(first_name: str, first: Predictions, name: str, other: Predictions, key: Callable | None) -> Predictions:
    if key is None:
        if len(first) != len(other):
            raise InputError(
                f"{first_name} has {len(first)} predictions and {name} has {len(other)}, and they have no common ids "
                "to match by; give files of the same records, or a `record` for each line."
            )
        return other
    index = {key(prediction): prediction for prediction in other}
    own = [key(prediction) for prediction in first]
    for one, two, lacking in ((first_name, name, set(own) - index.keys()), (name, first_name, index.keys() - set(own))):
        if lacking:
            example = min(lacking, key=str)
            raise InputError(
                f"{two} lacks {len(lacking)} of the records of {one}, such as {example!r}; give predictions of the "
                "same test records."
            )
    return [index[k] for k in own]


def _by_record(prediction: dict[str, Any]) -> Any:
    record = prediction.get("record")
    return None if record is None else str(record)


def _by_pair(prediction: dict[str, Any]) -> Any:
    pair = prediction.get("user"), prediction.get("item")
    return None if None in pair else tuple(map(str, pair))


def _unique(predictions: Predictions, key: Callable) -> bool:
    keys = [key(prediction) for prediction in predictions]
    return None not in keys and len(set(keys)) == len(keys)


def _told(prediction: dict[str, Any], number: int, key: Callable | None) -> str:
    return f"line {number}" if key is None else f"record {key(prediction)!r}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")
