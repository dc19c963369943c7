"""The predictions file: what a system said of each record and what it should have said, by any program.

One JSON object a line or one JSON array, or the `generated.txt` of PETER, PEPLER and their relatives; plain or packed.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metrics.errors import InputError
from metrics.text_files import PACKED, json_values, text_lines

FOREIGN = re.compile("[\udc80-\udcff]")  # what bytes that are not UTF-8 are carried on as


def read_predictions(path: str | Path) -> list[dict[str, Any]]:
    """The records of a predictions file as `stream_predictions` yields them."""
    return list(stream_predictions(path))


def stream_predictions(path: str | Path) -> Iterator[dict[str, Any]]:
    """One record after the other of a predictions file, of which `explanation` and `reference` must be given.

    Raises InputError naming file and line for what is no record, a value of the wrong type, or a record given twice (as
    a distributed sampler that pads its shards would do: it changes every mean), and for a file without any.
    """
    numbers: dict[str | int, int] = {}
    number = 0
    file = Path(path)
    name = file.with_suffix("") if file.suffix in PACKED else file
    for number, prediction in (_blocks if name.suffix == ".txt" else _objects)(file):
        record = prediction.get("record")
        if record is not None and numbers.setdefault(record, number) != number:
            raise InputError(
                f"{path}:{number}: record {record!r} was given on line {numbers[record]} already; "
                "keep one line for each record."
            )
        yield prediction
    if number == 0:
        raise InputError(f"{path} holds no predictions; generate them before evaluating.")


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, value in json_values(path, _json):
        yield number, _checked(value, f"{path}:{number}")


def _blocks(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Blocks that end with an empty line: reference, explanation (PEPLER, NRT, Att2Seq), between them for PETER the
    words of its context prediction, which is no text.
    """
    texts = [line.rstrip("\r\n") for line in text_lines(path)]
    for number, text in enumerate(texts, start=1):
        if not text.isascii() and FOREIGN.search(text):
            raise InputError(f"{path}:{number}: not UTF-8; write the file in UTF-8.")
    while texts and not texts[-1] and len(texts) % 3 and len(texts) % 4:
        texts.pop()
    for size in (3, 4):
        if len(texts) % size == 0 and not any(texts[size - 1 :: size]):
            for start in range(0, len(texts), size):
                yield start + 1, {"reference": texts[start], "explanation": texts[start + size - 2]}
            return
    raise InputError(
        f"{path}: a .txt file is read as PETER's or PEPLER's generated.txt, blocks of 2 or 3 lines that end with an "
        "empty one, and this is none; give JSON lines with `reference` and `explanation`."
    )


def _json(line: str) -> Any:
    if not line.isascii() and (foreign := FOREIGN.search(line)):
        raise ValueError(f"byte 0x{ord(foreign[0]) & 0xFF:02x} at character {foreign.start()} is none")
    return json.loads(line)


def _checked(prediction: Any, where: str) -> dict[str, Any]:
    if isinstance(prediction, Exception):
        reason = " ".join(str(prediction).split())
        raise InputError(f"{where}: not JSON in UTF-8 ({reason}); write one JSON object a line.")
    if not isinstance(prediction, dict):
        raise InputError(f"{where}: expected a JSON object, got {type(prediction).__name__}.")
    if isinstance(feature := prediction.pop("feature", None), str):  # NLG4RS' name of the one gold concept
        prediction.setdefault("gold_concepts", [feature])
    concepts = prediction.get("concepts")
    if isinstance(concepts, list) and _is_texts(concepts):
        prediction["concepts"] = [{"concept": concept} for concept in concepts]
    for key in ("explanation", "reference"):
        if not isinstance(prediction.get(key), str):
            raise InputError(f"{where}: `{key}` must be given as a text, got {prediction.get(key)!r}.")
    for key, (expected, is_valid) in _OPTIONAL.items():
        value = prediction.get(key)
        if value is not None and not is_valid(value):
            raise InputError(f"{where}: `{key}` must be {expected}, got {value!r}.")
    return prediction


def _is_number(value: Any) -> bool:
    # NaN, infinities and whole numbers that no float holds compare as false
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _is_index(value: Any) -> bool:
    return _is_id(value) and not isinstance(value, str) and 0 <= value < 2**63


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
    "concepts": ('a list of texts or of {"concept": NAME, ...}', _is_concepts),
    "gold_concepts": ("a list of texts", _is_texts),
}
