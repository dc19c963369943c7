"""XRec (EMNLP 2024): tables of {uid, iid, title, user_summary, item_summary, explanation}, as JSON Lines or CSV.

A file is read as it is; a folder by its files named trn, val and tst (.jsonl or .csv, packed or not), which are splits.
XRec explains interactions and has no ratings: every record gets the top of the scale, and the manifest says so. Its own
trn.pkl holds pandas frames, which cannot be read without running code: convert it where it is trusted, with
`pandas.read_pickle("trn.pkl").to_json("trn.jsonl", orient="records", lines=True)`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from datamodules.importers.markup import plain, tokenised_review
from datamodules.importers.reading import Row, optional_text, parsed, read_csv, read_json_lines, text_of
from datamodules.records import BadRecord, Facts, RawRecord
from metrics.errors import InputError
from metrics.text_files import PACKED

SPLITS = {"trn": "train", "val": "valid", "tst": "test"}
READERS: dict[str, Callable[[Path], Iterator[tuple[int, Row | BadRecord]]]] = {
    ".jsonl": read_json_lines,
    ".csv": read_csv,
}


def tables(path: Path) -> list[tuple[Path, str | None]]:
    """(table, its split, None where the file itself was named)."""
    if path.is_file():
        return [(path, None)]
    found: list[tuple[Path, str | None]] = [
        (path / f"{stem}{ending}{packed}", split)
        for stem, split in SPLITS.items()
        for ending in READERS
        for packed in ("", *PACKED)
        if (path / f"{stem}{ending}{packed}").is_file()
    ]
    if not found:
        pickled = (
            " (trn.pkl must be converted, see datamodules/importers/xrec.py)" if (path / "trn.pkl").exists() else ""
        )
        raise InputError(f"raw={path} holds no table trn, val or tst ending in {' or '.join(READERS)}{pickled}.")
    return found


def read(path: Path, rating: float) -> Iterator[RawRecord | BadRecord]:
    """The records of a table or of a folder of tables, all with the same rating."""
    for file, split in tables(path):

        def record(line: int, row: Row, split: str | None = split) -> RawRecord:
            user, item = text_of(row, "uid"), text_of(row, "iid")
            text, cleaned = tokenised_review(text_of(row, "explanation"))
            return RawRecord(
                line=line,
                user=user,
                item=item,
                rating=rating,
                explanation=text,
                mentions=None,
                split=split,
                item_title=plain(optional_text(row, "title") or ""),
                cleaned=cleaned,
            )

        for entry in parsed(_rows(file), record):
            # Lines are counted by file, so a fault names its file.
            yield entry._replace(detail=f"{file.name}: {entry.detail}") if isinstance(entry, BadRecord) else entry


def read_facts(path: Path, kind: str) -> Iterator[Facts | BadRecord]:
    """The written profiles of users or items (`kind`: user or item)."""
    for file, _ in tables(path):
        for entry in parsed(_rows(file), lambda line, row: _profile(row, kind)):
            if isinstance(entry, Facts):  # a fault is told where the record is read
                yield entry


def _profile(row: Row, kind: str) -> Facts:
    summary = optional_text(row, f"{kind}_summary")
    return Facts(text_of(row, "uid" if kind == "user" else "iid"), "", {"summary": summary} if summary else {})


def _rows(file: Path) -> Iterator[tuple[int, Row | BadRecord]]:
    ending = file.with_suffix("").suffix if file.suffix in PACKED else file.suffix
    if ending not in READERS:
        raise InputError(f"raw={file} must end in {' or '.join(READERS)} (packed or not).")
    return READERS[ending](file)
