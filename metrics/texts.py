"""Many texts in one buffer: a third of the memory that a Python object each would take."""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import pyarrow

# As bytes: JSON may hold half a surrogate pair, which is no text for Arrow.
Texts: TypeAlias = pyarrow.LargeBinaryArray
ERRORS = "surrogatepass"
CHUNK = 8192  # texts that are Python objects at a time


def texts_of(texts: Sequence[str]) -> Texts:
    """From Python's own."""
    return joined([_held(texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK)])


def joined(parts: Sequence[Texts]) -> Texts:
    """One after the other."""
    return pyarrow.concat_arrays(parts) if parts else _held([])


def strings(texts: Texts) -> list[str]:
    """Python's own."""
    return [text.decode("utf-8", ERRORS) for text in texts.to_pylist()]


def encoded(texts: Texts) -> Iterator[bytes]:
    """Each as UTF-8, some in memory at a time."""
    for start in range(0, len(texts), CHUNK):
        yield from texts.slice(start, CHUNK).to_pylist()


def _held(texts: Sequence[str]) -> Texts:
    return pyarrow.array([text.encode("utf-8", ERRORS) for text in texts], pyarrow.large_binary())
