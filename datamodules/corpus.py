"""The corpus: explained ratings as columns, and the folder they live in.

    records.parquet   record, user, item, rating, explanation, concepts (concept, opinion, polarity), time, split
    users.parquet     id                        row number = contiguous user id
    items.parquet     id, title, attributes     row number = contiguous item id
    concepts.parquet  concept, train_records    row number = concept id
    manifest.json     source, options, counts, what was left out and why, SHA-256 of every file

A folder appears complete or not at all, and the same tables give the same bytes.

Shape suffix: R records.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metrics.errors import InputError

SPLITS = ("train", "valid", "test")
FORMAT = "llm2er-corpus"
VERSION = 1
TABLES = ("records", "users", "items", "concepts")
MANIFEST = "manifest.json"


class Mention(NamedTuple):
    """One concept in one explanation: its id, the word that judges it ("" if unknown), and -1, 0 or 1."""

    concept: int
    opinion: str
    polarity: int


@dataclass(frozen=True, eq=False)
class Corpus:
    """Numpy columns, R records; record id == row number."""

    path: Path
    user_R: np.ndarray  # int32, contiguous user id
    item_R: np.ndarray  # int32, contiguous item id
    rating_R: np.ndarray  # float32
    split_R: np.ndarray  # int8, index into SPLITS
    explanations: list[str]
    mentions: list[list[Mention]]
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

    @classmethod
    def load(cls, path: str | Path) -> "Corpus":
        """Read a corpus folder; every file must be there and match its checksum.

        Raises InputError naming the file and the remedy.
        """
        path = Path(path)
        manifest = read_manifest(path)
        for name in sorted({*manifest["files"], *(f"{table}.parquet" for table in TABLES)}):
            _check_file(path / name, manifest["files"].get(name))
        records, users, items, concepts = (pq.read_table(path / f"{name}.parquet") for name in TABLES)
        return cls(
            path=path,
            user_R=records["user"].to_numpy(),
            item_R=records["item"].to_numpy(),
            rating_R=records["rating"].to_numpy(),
            split_R=pc.index_in(records["split"], pa.array(SPLITS)).to_numpy().astype(np.int8),
            explanations=records["explanation"].to_pylist(),
            mentions=_mentions(records["concepts"].combine_chunks()),
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
    out = Path(out).resolve()
    check_replaceable(out)
    staging = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        staging.mkdir(parents=True)
        for name, table in tables.items():
            pq.write_table(table, staging / f"{name}.parquet")
        files = {f"{name}.parquet": sha256_of(staging / f"{name}.parquet") for name in tables}
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


def _mentions(column: pa.ListArray) -> list[list[Mention]]:
    """Slices of the flat columns: building a dict for every mention is several times slower."""
    flat = column.flatten()
    columns = [flat.field(name).to_pylist() for name in Mention._fields]
    mentions = [Mention(*values) for values in zip(*columns, strict=True)]
    ends = np.cumsum(column.value_lengths().to_numpy()).tolist()
    return [mentions[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
