"""NLG4RS, PETER and PEPLER as their authors publish them: `reviews.pickle` and folders of index files.

The pickle is a list of {"user", "item", "rating", "template": (feature, opinion, sentence, sentiment)}, or of whole
reviews as the field's extractor writes them (see `quadruples`), plain values alone, packed or not. Unpickling can run
any code that the file names, so this file's code is looked through first and one that names anything is refused; the
unpickler itself resolves no class either.
"""

import io
import pickle
import pickletools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.importers.nlg4rs_jsonl import parse, with_splits
from datamodules.importers.quadruples import checked
from datamodules.importers.reading import Row, one_line, parsed
from datamodules.records import BadRecord, RawRecord
from metrics.errors import InputError
from metrics.file_form import HEAD, form_of
from metrics.phrases import tokenize
from metrics.text_files import UNREADABLE, unpacked

# What looks up, calls or builds something, or asks for objects or buffers from elsewhere.
_REFUSED = frozenset(
    tokenize("""
GLOBAL STACK_GLOBAL REDUCE BUILD INST OBJ NEWOBJ NEWOBJ_EX EXT1 EXT2 EXT4 PERSID BINPERSID NEXT_BUFFER
READONLY_BUFFER
""")
)
_NUMBERED = frozenset(tokenize("PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET"))


class PlainUnpickler(pickle.Unpickler):
    """Builds lists, dicts, tuples, texts and numbers, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuses every class and function."""
        raise pickle.UnpicklingError(f"names {module}.{name}")


def read(path: Path, splits: Path | None = None, rating_middle: float = 3.0) -> Iterator[RawRecord | BadRecord]:
    """The records of a pickle, numbered from 1, with the splits of a folder of index files if one is given.

    `rating_middle` parts the ratings that count as praise from those that count as criticism.
    """
    records = checked(parsed(_rows(path), partial(parse, rating_middle)), path)
    return records if splits is None else with_splits(records, splits)


def read_plain_pickle(path: Path) -> Any:
    """What a pickle of plain values holds. Raises InputError for one that is damaged or names any code."""
    try:
        with path.open("rb") as plain:
            data = unpacked(plain).read()
    except UNREADABLE as error:
        reason = one_line(getattr(error, "strerror", None) or error)
        raise InputError(f"{path} cannot be read ({reason}): check the path or copy it anew.") from None
    form = None if data.startswith(b"\x80") else form_of(data[:HEAD])
    if form is not None:
        raise InputError(f"{path} is {form[0]} and no pickle: {form[1]}.")
    if data.lstrip()[:1] in (b"{", b"[") and data[:HEAD].isascii():
        raise InputError(f"{path} holds JSON and is no pickle: read it with format=nlg4rs_jsonl.")
    try:
        for code, argument, place in pickletools.genops(data):
            if code.name in _REFUSED:
                raise InputError(
                    f"{path} is refused: at byte {place} it names code to run ({code.name}); plain values "
                    "have no need to. Get it from its source, or convert it to JSON Lines (format=nlg4rs_jsonl)."
                )
            if code.name in _NUMBERED and int(argument or 0) > len(data):
                raise ValueError(f"entry {argument} of its memo is beyond any object it could hold")
        return PlainUnpickler(io.BytesIO(data)).load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to ask for
        reason = one_line(error)
        raise InputError(f"{path} cannot be read as a pickle ({reason}): check the path or copy it anew.") from None


def _rows(path: Path) -> Iterator[tuple[int, Row | BadRecord]]:
    rows = read_plain_pickle(path)
    if not isinstance(rows, list):
        raise InputError(f"{path} holds a {type(rows).__name__} where a list of records is due: check the path.")
    rows.reverse()
    for number in range(1, len(rows) + 1):
        row = rows.pop()  # what is read is let go
        if isinstance(row, dict):
            for key in ("template", "sentence"):
                if isinstance(row.get(key), tuple | list):
                    row[key] = _lists(row[key])
        if isinstance(row, dict) and all(isinstance(key, str) for key in row):
            yield number, row
        else:
            yield number, BadRecord(number, "unreadable line", "is no dictionary with texts as keys")


def _lists(values: Any) -> Any:
    """Tuples as lists, as JSON has them, two deep: a list of quadruples."""
    return [list(entry) if isinstance(entry, tuple) else entry for entry in values]
