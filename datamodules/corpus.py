"""The corpus: explained ratings as columns, and the folder they live in.

    records.parquet   record, user, item, rating, explanation, concepts (concept, opinion, polarity), time, split
    records.arrow     the same table, uncompressed: training maps it into memory
    users.parquet     id (, attributes)         row number = contiguous user id
    items.parquet     id, title, attributes     row number = contiguous item id
    concepts.parquet  concept, train_records    row number = concept id
    reviews.parquet   record, review            where explanations were chosen from reviews: the whole ones
    manifest.json     source, options, counts, what was left out and why, SHA-256 of every file

A folder appears complete or not at all, and the same tables give the same bytes. Parquet must be decoded into memory of
one's own; pages of records.arrow are shared by all ranks of a machine, and texts become Python objects only when read.

Shape suffix: R records.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metrics.errors import InputError

SPLITS = ("train", "valid", "test")
FORMAT = "llm2er-corpus"
VERSION = 2
TABLES = ("records", "users", "items", "concepts")
MAPPED = "records.arrow"
MANIFEST = "manifest.json"
CHUNK = 1 << 16  # texts decoded at a time where all are read in order


class Mention(NamedTuple):
    """One concept in one explanation: its id, the word that judges it ("" if unknown), and -1, 0 or 1."""

    concept: int
    opinion: str
    polarity: int


class _Column(Sequence):
    """What texts and mentions have in common: equal to any sequence of the same values."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


class Texts(_Column):
    """A column of texts that stays where it is, on disk; one that is read becomes a `str`."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return self._column[index].to_pylist()
        return self._column[int(index)].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), CHUNK):
            yield from self._column.slice(start, CHUNK).to_pylist()


class MentionLists(_Column):
    """The mentions of each record, read from flat columns: record r has those from `start[r]` to `start[r + 1]`."""

    def __init__(self, column: pa.ListArray) -> None:
        flat = column.flatten()
        self.start = np.concatenate([[0], np.cumsum(column.value_lengths().to_numpy(), dtype=np.int64)])
        self.concept_M: np.ndarray = flat.field("concept").to_numpy()
        self.polarity_M: np.ndarray = flat.field("polarity").to_numpy()
        self._opinion_M = flat.field("opinion")

    def __len__(self) -> int:
        return len(self.start) - 1

    @overload
    def __getitem__(self, index: int) -> list[Mention]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[Mention]]: ...
    def __getitem__(self, index: int | slice) -> list[Mention] | list[list[Mention]]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        part = slice(int(self.start[row]), int(self.start[row + 1]))
        columns = (self.concept_M[part].tolist(), self._opinion_M[part].to_pylist(), self.polarity_M[part].tolist())
        return [Mention(*values) for values in zip(*columns, strict=True)]


@dataclass(frozen=True, eq=False)
class Corpus:
    """Numpy columns, R records; record id == row number."""

    path: Path
    user_R: np.ndarray  # int32, contiguous user id
    item_R: np.ndarray  # int32, contiguous item id
    rating_R: np.ndarray  # float32
    split_R: np.ndarray  # int8, index into SPLITS
    explanations: Sequence[str]
    mentions: Sequence[list[Mention]]
    users: list[str]  # original ids; the index is the contiguous id
    items: list[str]
    item_titles: list[str]  # "" where unknown
    concepts: list[str]  # ordered by (number of train records that mention it, descending; name)
    rating_min: float
    rating_max: float
    manifest: dict[str, Any]

    def rows(self, split: str) -> np.ndarray:
        """Record ids (int64, ascending) of one of SPLITS."""
        return np.flatnonzero(self.split_R == SPLITS.index(split))

    def mention_columns(self, row_R: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(record, concept, polarity), one entry a mention, of the mentions of records `row_R`, in their order."""
        if isinstance(self.mentions, MentionLists):
            start_R, size_R = self.mentions.start[row_R], np.diff(self.mentions.start)[row_R]
            ends_R = np.cumsum(size_R)
            index_M = np.arange(ends_R[-1] if len(ends_R) else 0) + np.repeat(start_R - ends_R + size_R, size_R)
            return np.repeat(row_R, size_R), self.mentions.concept_M[index_M], self.mentions.polarity_M[index_M]
        rows = [(row, mention.concept, mention.polarity) for row in row_R.tolist() for mention in self.mentions[row]]
        record_M, concept_M, polarity_M = np.array(rows, dtype=np.int64).reshape(-1, 3).T
        return record_M, concept_M, polarity_M

    @classmethod
    def load(cls, path: str | Path) -> "Corpus":
        """Read a corpus folder; every file must be there and match its checksum.

        Raises InputError naming the file and the remedy.
        """
        path = Path(path)
        manifest = read_manifest(path)
        for name in sorted({MAPPED, *manifest["files"], *(f"{table}.parquet" for table in TABLES)}):
            _check_file(path / name, manifest["files"].get(name))
        records = pa.ipc.open_file(pa.memory_map(str(path / MAPPED))).read_all()
        users, items, concepts = (pq.read_table(path / f"{name}.parquet") for name in TABLES[1:])
        return cls(
            path=path,
            user_R=records["user"].to_numpy(),
            item_R=records["item"].to_numpy(),
            rating_R=records["rating"].to_numpy(),
            split_R=pc.index_in(records["split"], pa.array(SPLITS)).to_numpy().astype(np.int8),
            explanations=Texts(records["explanation"]),
            mentions=MentionLists(_one_chunk(records["concepts"])),
            users=users["id"].to_pylist(),
            items=items["id"].to_pylist(),
            item_titles=items["title"].to_pylist(),
            concepts=concepts["concept"].to_pylist(),
            rating_min=float(manifest["options"]["rating_min"]),
            rating_max=float(manifest["options"]["rating_max"]),
            manifest=manifest,
        )


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a corpus folder; raises InputError where there is none or another version wrote it."""
    remedy = f"make the corpus with `python launch/prepare.py raw=FILE format=FORMAT out={path}`"
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} holds no corpus ({MANIFEST} is missing): {remedy}.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}): {remedy}.") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or "files" not in manifest:
        raise InputError(f"{file} is not the manifest of a corpus: {remedy}.")
    if manifest.get("version") != VERSION:
        raise InputError(
            f"{file} has version {manifest.get('version')} and this code reads version {VERSION}: {remedy}."
        )
    return manifest


def write_corpus(out: str | Path, tables: Mapping[str, pa.Table], manifest: Mapping[str, Any]) -> None:
    """Write tables and manifest as the folder `out`, replacing a corpus that stands there.

    Everything is written to a folder beside it first and renamed at the end, so that an interrupted run leaves `out`
    as it was. Raises InputError where `out` holds anything but a corpus or cannot be written.
    """
    out = Path(os.path.realpath(out))  # does not raise on a loop of links, as `resolve` does
    check_replaceable(out)
    staging = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        staging.mkdir(parents=True)
        for name, table in tables.items():
            pq.write_table(table, staging / f"{name}.parquet")
        with pa.ipc.new_file(staging / MAPPED, tables["records"].schema) as file:
            file.write_table(tables["records"])
        files = {name: sha256_of(staging / name) for name in (MAPPED, *(f"{table}.parquet" for table in tables))}
        text = json.dumps({"format": FORMAT, "version": VERSION, **manifest, "files": files}, indent=2)
        (staging / MANIFEST).write_text(text + "\n", encoding="utf-8")
        _swap(staging, out)
    except OSError as error:
        raise InputError(
            f"out={out} cannot be written ({error.strerror or error}): name another folder or mend this one."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_replaceable(out: str | Path) -> None:
    """Raise InputError unless `out` is absent, an empty folder, or a corpus folder with nothing else in it."""
    out = Path(out)
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"out={out} is a file: name a folder.")
    present = sorted(entry.name for entry in out.iterdir())
    if not present:
        return
    if MANIFEST not in present:
        raise InputError(f"out={out} is not empty and holds no corpus: name another folder, or empty this one.")
    foreign = [name for name in present if name not in {MANIFEST, *read_manifest(out)["files"]}]
    if foreign:
        raise InputError(
            f"out={out} holds {foreign[0]}, which is no part of its corpus and would be lost: "
            "move it away, or name another folder."
        )


def sha256_of(file: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _swap(staging: Path, out: Path) -> None:
    """Put `staging` in the place of `out`; an old corpus leaves only when the new one stands."""
    old = staging.with_suffix(".old")
    if out.exists():
        out.rename(old)
    staging.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _check_file(file: Path, checksum: str | None) -> None:
    if not file.is_file():
        raise InputError(f"{file} is missing: prepare the corpus again with launch/prepare.py.")
    if sha256_of(file) != checksum:
        raise InputError(
            f"{file} does not match the checksum in {MANIFEST} (changed or damaged): "
            "prepare the corpus again with launch/prepare.py."
        )


def _one_chunk(column: pa.ChunkedArray) -> pa.ListArray:
    """One array; without a copy where the file holds one batch, as those do that `write_corpus` wrote."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
