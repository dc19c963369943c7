"""What a file is, by its first bytes: which text encoding, which packing, or which other form that is no text.

A file of another form is one fault of the whole file: read line by line it would be thousands of bad lines, and leaving
those out would lose records.
"""

import json
import re
import tarfile
from pathlib import Path

from metrics.errors import InputError

HEAD = 1 << 20  # bytes that are looked at

# The first bytes of a form, its name, what to do with it.
_UNPACK = "unpack it and name the file inside"
_SAVE_CSV = "save the sheet as CSV in UTF-8"
_FORMS = (
    (b"version https://git-lfs", "a Git LFS pointer and not the data itself", "fetch the data with `git lfs pull`"),
    (b"PAR1", "a Parquet file", "end its name in .parquet and read it with format=table"),
    (b"ARROW1", "an Arrow (Feather) file", "write it as Parquet"),
    (b"SQLite format 3\x00", "an SQLite database", "export its table as CSV"),
    (b"%PDF-", "a PDF document", "export its table as CSV"),
    (b"{\\rtf", "an RTF document", "save it as plain text in UTF-8"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file (.xls, .doc)", _SAVE_CSV),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"\x04\x22\x4d\x18", "packed by lz4", _UNPACK),
    (b"\x1f\x9d", "packed by compress", _UNPACK),
    (b"\x89HDF\r\n", "an HDF5 file", "write its table as Parquet or CSV"),
    (b"\x93NUMPY", "a NumPy array", "write it as a table in Parquet or CSV"),
    (b"Obj\x01", "an Avro file", "write it as Parquet or JSON Lines"),
    (b"ORC", "an ORC file", "write it as Parquet"),
    (b"\x7fELF", "a program", "check the path"),
    (b"\x89PNG", "an image", "check the path"),
    (b"\xff\xd8\xff", "an image", "check the path"),
    (b"GIF87a", "an image", "check the path"),
    (b"GIF89a", "an image", "check the path"),
)
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\x00": "xz"}
_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
# A text starts with a brace, a quote or the name of a column: where its zeros are is the width of its characters.
_WIDTHS = {
    (True, False, False, False): "utf-32-le",
    (False, False, False, True): "utf-32-be",
    (True, False, True, False): "utf-16-le",
    (False, True, False, True): "utf-16-be",
}
_HTML = re.compile(rb"\s*(<!--.*?-->\s*)*<(!doctype|html|head|body|script|meta|title|div)\b", re.IGNORECASE | re.DOTALL)
_XML = re.compile(rb"\s*<\?xml\b", re.IGNORECASE)
_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
FOREIGN_LINES = 3  # lines that are not UTF-8, in a file where none holds a character beyond ASCII: another encoding


def packing_of(head: bytes) -> str:
    """gzip, zstd, bzip2 or xz by the first bytes; "" for none of them."""
    if head.startswith(b"BZh"):
        return "bzip2" if head[4:10] in (b"1AY&SY", b"\x17rE8P\x90") else ""
    return next((name for first, name in _PACKED.items() if head.startswith(first)), "")


def form_of(head: bytes) -> tuple[str, str] | None:
    """(what the file is, what to do with it) by its first bytes, or None where it may be a text.

    The caller unpacks first: a packing that is seen here lies inside of another or where none is read.
    """
    if head.startswith(b"PK") and head[2:4] in (b"\x03\x04", b"\x05\x06", b"\x07\x08"):
        if b"[Content_Types].xml" in head or b"xl/" in head:
            return "an Excel or Office file", _SAVE_CSV
        return "a zip archive", _UNPACK
    for first, name, remedy in _FORMS:
        # A text may start with the same letters: "ORCID" is the name of a column.
        if head.startswith(first) and (len(first) > 4 or _NO_TEXT.search(head[:12]) or not head[:12].isascii()):
            return name, remedy
    packing = packing_of(head)
    if packing:
        return f"packed by {packing}, and what was in it by that again", "unpack it once"
    if _is_tar(head):
        return "a tar archive", _UNPACK
    if _PICKLE.match(head):
        return "a Python pickle", "read reviews.pickle with format=nlg4rs, or write the table as JSON Lines"
    start = head[:4096].removeprefix(b"\xef\xbb\xbf")
    if _HTML.match(start):
        return "a web page (an error or a login, perhaps) and not the data itself", "download the data again"
    if _XML.match(start):
        return "an XML file", "write its records as JSON Lines or CSV"
    return None


def encoding_of(path: Path, head: bytes) -> str:
    """The encoding of a text file by its first bytes. Raises InputError for what is no text or is in an unknown one."""
    form = form_of(head)
    if form is not None:
        raise InputError(f"{path} is {form[0]}: {form[1]}.")
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    zeros = tuple(byte != 0 for byte in head[:4])
    if len(head) >= 8 and zeros in _WIDTHS and zeros == tuple(byte != 0 for byte in head[4:8]):
        return _WIDTHS[zeros]
    start = head[:512]
    if len(_NO_TEXT.findall(start)) * 10 > len(start):
        raise InputError(f"{path} is no text file: its first bytes are {start[:8]!r}; check the path.")
    if b"\n" not in head and head.rstrip(b"\r").count(b"\r") > 1:
        raise InputError(f"{path} ends its lines with a carriage return alone: convert it with `mac2unix`.")
    _refuse_foreign(path, head)
    return "utf-8-sig"


def is_json_array(text: str) -> bool:
    """Is it the start of one JSON array of objects, and not of an array a line?"""
    return re.match(r"\ufeff?\s*\[\s*(\{|\]|$)", text) is not None and not _is_array_a_line(text)


def refuse_other_than_json(path: Path, text: str) -> None:
    """Raise InputError where the start of a file, as text, is no JSON Lines at all, or objects of another layout."""
    lines = [line for line in text.removeprefix("\ufeff").split("\n") if line.strip()]
    if not lines:
        return
    if not any(line.lstrip()[0] in "{[" for line in lines):
        first = " ".join(lines[0].split())
        raise InputError(
            f"{path}:1: is not JSON, and no line of the file is ('{first:.40}'): give JSON Lines; a table of cells "
            "ends in .csv or .tsv and is read with format=table."
        )
    if not any(line.lstrip()[0] == "{" for line in lines):
        raise InputError(
            f"{path}:1: is JSON but not an object with keys, nor is any other line: write one object a line, whose "
            "keys name its values."
        )
    first = lines[0].strip()
    if first == "{" and not any(line.lstrip().startswith("{") and line.rstrip().endswith("}") for line in lines):
        raise InputError(
            f"{path}:1: is not JSON by itself: an object goes over several lines; write one object a line "
            "(`jq -c .` does)."
        )
    if len(lines) == 1 and _holds_records(first):
        raise InputError(
            f"{path} is one JSON object that holds the records inside of its keys: write one object a line "
            "(pandas: `to_json(orient='records', lines=True)`)."
        )


def _holds_records(line: str) -> bool:
    """Is it an object of nothing but lists of objects, or of columns as pandas writes them?"""
    try:
        tree = json.loads(line)
    except (ValueError, RecursionError):
        return re.match(r'\{\s*"[^"]*"\s*:\s*\{\s*"0"\s*:', line) is not None  # cut off: the file goes on
    if not isinstance(tree, dict) or not tree:
        return False
    lists = [value for value in tree.values() if isinstance(value, list)]
    if len(tree) == 1 and lists:
        return bool(lists[0]) and all(isinstance(entry, dict) for entry in lists[0])
    columns = [tuple(value) for value in tree.values() if isinstance(value, dict)]
    return len(columns) == len(tree) and len(set(columns)) == 1 and "0" in columns[0]


def _is_array_a_line(text: str) -> bool:
    first, _, rest = text.removeprefix("\ufeff").lstrip().partition("\n")
    if not rest.strip():
        return False
    try:
        return isinstance(json.loads(first), list)
    except (ValueError, RecursionError):
        return False


def _is_tar(head: bytes) -> bool:
    if len(head) < tarfile.BLOCKSIZE or not any(head[: tarfile.BLOCKSIZE]):
        return False
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def _refuse_foreign(path: Path, head: bytes) -> None:
    """Raise InputError where lines with characters beyond ASCII are never UTF-8: the file is in another encoding."""
    if head.isascii():
        return
    foreign = []
    lines = head.split(b"\n")
    for number, line in enumerate(lines if len(head) < HEAD else lines[:-1], start=1):
        if line.isascii():
            continue
        try:
            line.decode("utf-8")
            return
        except UnicodeDecodeError:
            foreign.append(number)
    if len(foreign) >= FOREIGN_LINES:
        shown = ", ".join(map(str, foreign[:FOREIGN_LINES]))
        raise InputError(
            f"{path} is not in UTF-8 (lines {shown} and more, and none with an accent or a sign is): convert it from "
            f"its encoding, if it is Latin-1 or Windows-1252 by `iconv -f WINDOWS-1252 -t UTF-8 {path.name} > NEW`."
        )
