"""The lines and the JSON values of a text file, plain or packed, whatever mark or encoding of Unicode it starts with.

Bytes that are not UTF-8 are carried on as surrogates, so that who reads a line can name it.
"""

import bz2
import contextlib
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import pyarrow as pa

from metrics.errors import InputError
from metrics.file_form import HEAD, encoding_of, is_json_array, packing_of, refuse_other_than_json

UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError)  # what a file or a packing that is damaged raises
PACKED = (".gz", ".zst", ".bz2", ".xz")  # what names of packed files end in
LONGEST_VALUE = 1 << 26  # characters of one value in an array
_BLOCK = 1 << 16
_SPACE = re.compile(r"\s*")


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a text file, line ends included; packing and encoding are known by the first bytes, not by the name.

    Raises InputError for a file that cannot be read and for one that is no text, with what it is.
    """
    count = 0
    with _opened(path, lambda: f"line {count}") as stream:
        for text in stream:
            yield text.removeprefix("\ufeff")  # files that were put together have a mark inside
            count += 1


def json_values(path: Path, parse: Callable[[str], Any] = json.loads) -> Iterator[tuple[int, Any]]:
    """(line number, value) of a JSON Lines file, (number from 1, value) of a JSON array; blank lines are passed over.

    For a line that `parse` does not read the ValueError or RecursionError it raised stands in the place of the value.
    """
    start = _start_of(path)
    if is_json_array(start):
        yield from _array_values(path)
        return
    refuse_other_than_json(path, start)
    for line, text in enumerate(text_lines(path), start=1):
        if not text.strip():
            continue
        try:
            value = parse(text)
        except (ValueError, RecursionError) as error:
            value = error
        yield line, value


def first_bytes(path: Path) -> bytes:
    """The first bytes of a file, unpacked; of a damaged packing as many as can be read."""
    head = bytearray()
    with path.open("rb") as plain:
        stream = unpacked(plain)
        with contextlib.suppress(*UNREADABLE):  # whoever reads on meets the damage and tells it
            while len(head) < HEAD and (block := stream.read(_BLOCK)):
                head += block
    return bytes(head)


def unpacked(plain: BinaryIO) -> Any:
    """The stream itself or one that unpacks it, from its start."""
    packing = packing_of(plain.read(10))
    plain.seek(0)
    if packing == "gzip":
        return gzip.GzipFile(fileobj=plain)
    if packing == "zstd":
        return pa.CompressedInputStream(pa.PythonFile(plain, mode="r"), "zstd")
    if packing == "bzip2":
        return bz2.BZ2File(plain)
    return lzma.LZMAFile(plain) if packing == "xz" else plain


@contextlib.contextmanager
def _opened(path: Path, place: Callable[[], str]) -> Iterator[TextIO]:
    """The text of a file. What goes wrong with it is told as after `place`."""
    try:
        encoding = encoding_of(path, first_bytes(path))
        # Wider characters have no bytes to carry on: they are right or the file is damaged.
        errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
        with path.open("rb") as plain:
            # newline="\n": a carriage return inside a text is no end of a line.
            yield io.TextIOWrapper(unpacked(plain), encoding, errors, newline="\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} cannot be read after {place()} (no {error.encoding}: {error.reason}): write it in UTF-8."
        ) from None
    except UNREADABLE as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise InputError(f"{path} cannot be read after {place()} ({reason}): check the path or copy it anew.") from None


def _start_of(path: Path) -> str:
    try:
        head = first_bytes(path)
    except OSError:
        return ""  # told where it is read
    return head.decode(encoding_of(path, head), "replace")


def _array_values(path: Path) -> Iterator[tuple[int, Any]]:
    """The values of one JSON array, a block of the file at a time. Raises InputError where it is broken."""
    decoder, number, size = json.JSONDecoder(), 0, _BLOCK
    with _opened(path, lambda: f"record {number}") as stream:
        text = stream.read(size).removeprefix("\ufeff").lstrip()
        place = 1  # behind the bracket
        while True:
            place = _end_of_space(text, place)
            if text.startswith("]", place):
                break
            fault = "it does not end"
            try:
                value, end = decoder.raw_decode(text, place)
                end = _end_of_space(text, end)
                if text[end : end + 1] in (",", "]"):
                    number += 1
                    yield number, value
                    place = end + (text[end] == ",")
                    continue
            except (ValueError, RecursionError) as error:
                fault = " ".join(str(error).split())
            more = stream.read(size) if len(text) - place < LONGEST_VALUE else ""
            if not more:
                raise InputError(
                    f"{path} is a JSON array that breaks off after record {number} ({fault}): mend it, or write one "
                    "object a line."
                )
            text, place, size = text[place:] + more, 0, min(size * 2, LONGEST_VALUE)
        if text[place + 1 :].strip() or stream.read(_BLOCK).strip():
            raise InputError(
                f"{path} goes on after the end of its JSON array (record {number}): write one object a line."
            )


def _end_of_space(text: str, place: int) -> int:
    space = _SPACE.match(text, place)
    return space.end() if space else place
