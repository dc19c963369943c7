"""The folder of a stage's checkpoints: what makes one complete, which to go on from, which to remove. Files alone.

checkpoints/step-000120/manifest.json   what it is, and bytes and SHA-256 of every other file; written last
checkpoints/step-000120/...             shards, random states, the best product so far
checkpoints/step-000140.1f2e3d4c.partial/   a save that was cut off
"""

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from callbacks.durable import sync, write_durably

FORMAT = 1
MANIFEST = "manifest.json"
PARTIAL = ".partial"
NAME = re.compile(r"step-(\d{6,})(-\d+-ranks)?(\..*partial)?")


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is; `manifest.json`."""

    stage: str
    step: int  # optimizer steps done
    epoch: int  # the epoch that is going on, or that comes next; in PPO the iteration
    micro_step: int  # micro-batches of that epoch that are done
    ranks: int
    config: dict[str, Any]  # the keys that the stage depends on
    versions: dict[str, str]
    files: dict[str, tuple[int, str]]  # relative path -> (bytes, SHA-256)
    best: bool = False  # the monitored value was never better
    log_rows: int = 0  # rows of metrics.csv that were written before
    wandb_id: str = ""
    universal: bool = False  # made by convert=: shards fit any number of ranks

    def write(self, folder: Path) -> None:
        """Writes `manifest.json`, sealed by a checksum of its own, through to the disk."""
        tree = asdict(self) | {"format": FORMAT}
        write_durably(folder / MANIFEST, json.dumps(tree | {"seal": _seal(tree)}, indent=1) + "\n")


def _seal(tree: dict) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


class RejectedError(Exception):
    """A folder is no complete checkpoint; the message says why."""


def step_name(step: int) -> str:
    """The name of a step's folder."""
    return f"step-{step:06d}"


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks the manifest alone; raises `RejectedError`."""
    if folder.name.endswith(PARTIAL):
        raise RejectedError("the save was cut off")
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
        tree = json.loads(text)
    except FileNotFoundError as error:
        raise RejectedError(f"it has no {MANIFEST}") from error
    except (OSError, ValueError) as error:
        raise RejectedError(f"{MANIFEST} cannot be read") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("format"), int) or not text.endswith("}\n"):
        raise RejectedError(f"{MANIFEST} is damaged")
    if tree["format"] > FORMAT:
        raise RejectedError(f"a newer version of llm2er wrote it (format {tree['format']}, known is {FORMAT})")
    seal = tree.pop("seal", "")
    if seal != _seal(tree):
        raise RejectedError(f"{MANIFEST} is damaged")
    del tree["format"]
    if missing := {field.name for field in fields(Manifest)} ^ tree.keys():
        raise RejectedError(f"{MANIFEST} lacks or has unknown keys: {', '.join(sorted(missing))}")
    tree["files"] = {name: tuple(value) for name, value in tree["files"].items()}
    return Manifest(**tree)


def files_of(folder: Path) -> list[str]:
    """Every file of a checkpoint but its manifest, as relative paths, in a fixed order."""
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]
    return sorted(name for name in found if name != MANIFEST)


def digest(path: Path) -> tuple[int, str]:
    """(bytes, SHA-256) of a file."""
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return path.stat().st_size, checksum


def check_names(folder: Path, manifest: Manifest) -> None:
    """Cheap checks before any byte is hashed: the folder's name, the set of files, sizes, no links."""
    if step_name(manifest.step) != folder.name and not manifest.universal:
        raise RejectedError(f"its manifest is that of {step_name(manifest.step)}")
    found, known = set(files_of(folder)), set(manifest.files)
    if absent := sorted(known - found):
        raise RejectedError(f"{absent[0]} is missing")
    if strange := sorted(found - known):
        raise RejectedError(f"{strange[0]} is not in its manifest")
    for name, (size, _) in manifest.files.items():
        path = folder / name
        if path.is_symlink():
            raise RejectedError(f"{name} is a symbolic link")
        if path.stat().st_size != size:
            raise RejectedError(f"{name} has {path.stat().st_size:,} bytes, its manifest says {size:,}")


def damaged(folder: Path, manifest: Manifest, share: Iterable[str]) -> list[str]:
    """Those files of `share` whose content is not that of the manifest."""
    return [name for name in share if digest(folder / name)[1] != manifest.files[name][1]]


def distrust(folder: Path) -> str:
    """Why a checkpoint may not be our own, or ""; its shards are read by DeepSpeed, so others should not write it."""
    status = folder.stat()
    if status.st_mode & stat.S_IWOTH:
        return f"{folder} can be written by everybody; chmod o-w it"
    if status.st_uid not in (os.geteuid(), 0):
        return f"{folder} belongs to user id {status.st_uid}, not to you"
    return ""


def candidates(folder: Path) -> list[Path]:
    """Checkpoints of a stage, newest first; those cut off are among them."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_dir() and NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (-_step(path), path.name))


def _step(path: Path) -> int:
    return int(NAME.fullmatch(path.name)[1])  # type: ignore[index]


def inspect(path: Path) -> Manifest:
    """The manifest of a checkpoint that looks whole, before its files are hashed; raises `RejectedError`."""
    manifest = read_manifest(path)
    check_names(path, manifest)
    return manifest


def final_name(partial: Path) -> str:
    """What a staging folder will be called when it is whole."""
    return partial.name.partition(".")[0]


def publish(partial: Path) -> Path:
    """Renames a save that is complete to its final name."""
    final = partial.with_name(final_name(partial))
    if final.exists():  # one of the same step that was rejected
        _remove(final)
    partial.rename(final)
    sync(final.parent)
    return final


def prune(folder: Path, keep: int, keep_best: bool) -> None:
    """Removes saves that were cut off, and all complete ones but the newest `keep` (and the best one, if asked).

    Folders that are damaged or of a newer version stay: they are the user's to judge.
    """
    complete = []
    for path in candidates(folder):
        if path.name.endswith(PARTIAL):
            shutil.rmtree(path, ignore_errors=True)
            continue
        try:
            complete.append((path, read_manifest(path).best))
        except RejectedError:
            continue
    best = next((path for path, is_best in complete if is_best and keep_best), None)
    for path, _ in complete[keep:]:
        if path != best:
            _remove(path)


def _remove(path: Path) -> None:
    # Renamed first: a removal that is cut off must not leave a folder that looks like a checkpoint.
    doomed = path.with_name(f"{path.name}.removed{PARTIAL}")
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def set_aside(folder: Path, newer_than: int) -> Path | None:
    """Moves checkpoints of later steps out of the way of a run that goes back; returns where, if there were any."""
    whole = [path for path in candidates(folder) if not path.name.endswith(PARTIAL)]
    moved = [path for path in whole if _step(path) > newer_than]
    if not moved:
        return None
    number = 1
    while (place := folder / f"set-aside-{number}").exists():
        number += 1
    place.mkdir()
    for path in moved:
        path.rename(place / path.name)
    sync(folder)
    return place
