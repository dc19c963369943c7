"""NLG4RS, PETER and PEPLER as their authors publish them: `reviews.pickle` and folders of index files.

The pickle is a list of {"user", "item", "rating", "template": (feature, opinion, sentence, sentiment)}, plain values
alone. Unpickling can run any code that the file names, so this file's code is looked through first and one that names
anything is refused; the unpickler itself resolves no class either.
"""

import io
import pickle
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.importers.nlg4rs_jsonl import parse, with_splits
from datamodules.importers.reading import Row, one_line, parsed
from datamodules.records import BadRecord, RawRecord
from metrics.errors import InputError
from metrics.phrases import tokenize

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


def read(path: Path, splits: Path | None = None) -> Iterator[RawRecord | BadRecord]:
    """The records of a pickle, numbered from 1, with the splits of a folder of index files if one is given."""
    records = parsed(_rows(path), parse)
    return records if splits is None else with_splits(records, splits)


def read_plain_pickle(path: Path) -> Any:
    """What a pickle of plain values holds. Raises InputError for one that is damaged or names any code."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the path.") from None
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
        if isinstance(row, dict) and isinstance(row.get("template"), tuple):
            row["template"] = list(row["template"])
        if isinstance(row, dict) and all(isinstance(key, str) for key in row):
            yield number, row
        else:
            yield number, BadRecord(number, "unreadable line", "is no dictionary with texts as keys")
