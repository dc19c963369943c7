"""The predictions file: one JSON object a line, what a system said of each record and what it should have said."""

import json
import math
from pathlib import Path
from typing import Any

from metrics.errors import InputError


def read_predictions(path: str | Path) -> list[dict[str, Any]]:
    """The records of a predictions file, of which `explanation` and `reference` must be given.

    Raises InputError naming file and line for what is no record, a value of the wrong type, or a record given twice (as
    a distributed sampler that pads its shards would do: it changes every mean).
    """
    predictions: list[dict[str, Any]] = []
    lines: dict[str | int, int] = {}
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                prediction = _parse(line, f"{path}:{number}")
                record = prediction.get("record")
                if record is not None and lines.setdefault(record, number) != number:
                    raise InputError(
                        f"{path}:{number}: record {record!r} was given on line {lines[record]} already; "
                        "keep one line for each record."
                    )
                predictions.append(prediction)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give the path of a predictions file.") from None
    if not predictions:
        raise InputError(f"{path} holds no predictions; generate them before evaluating.")
    return predictions


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        prediction = json.loads(line.decode("utf-8"))
    except ValueError as error:
        raise InputError(f"{where}: not JSON in UTF-8 ({error}); write one JSON object a line.") from None
    if not isinstance(prediction, dict):
        raise InputError(f"{where}: expected a JSON object, got {type(prediction).__name__}.")
    for key in ("explanation", "reference"):
        if not isinstance(prediction.get(key), str):
            raise InputError(f"{where}: `{key}` must be given as a text, got {prediction.get(key)!r}.")
    for key, (expected, is_valid) in _OPTIONAL.items():
        value = prediction.get(key)
        if value is not None and not is_valid(value):
            raise InputError(f"{where}: `{key}` must be {expected}, got {value!r}.")
    return prediction


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _is_index(value: Any) -> bool:
    return _is_id(value) and not isinstance(value, str) and value >= 0


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _is_concepts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(entry, dict) and isinstance(entry.get("concept"), str) for entry in value
    )


_OPTIONAL = {
    "record": ("a text or a whole number", _is_id),
    "user": ("a text or a whole number", _is_id),
    "item": ("a text or a whole number", _is_id),
    "user_index": ("a whole number from 0 on", _is_index),
    "item_index": ("a whole number from 0 on", _is_index),
    "rating": ("a finite number", _is_number),
    "predicted_rating": ("a finite number", _is_number),
    "concepts": ('a list of {"concept": NAME, ...}', _is_concepts),
    "gold_concepts": ("a list of texts", _is_texts),
}
