"""Files and folders that are either whole or not there, also after a power cut."""

import os
import shutil
from pathlib import Path


def sync(path: Path) -> None:
    """Waits until a file, or the entries of a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """`sync` of every file and folder in and below `folder`."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def write_durably(path: Path, text: str) -> None:
    """Replaces a text file: a reader sees the old text or the new one, never a part."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync(path.parent)


def swap_folder(new: Path, place: Path) -> None:
    """Puts the complete folder `new` in the place of `place`.

    Between the two renames `place` is absent; it never holds a mixture of both.
    """
    sync_tree(new)
    old = place.with_name(f"{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    new.rename(place)
    sync(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def link_tree(source: Path, target: Path) -> None:
    """Copies a folder by hard links where the file system has them, so that it takes no space.

    Right only for files that are replaced, never changed in place.
    """
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir(parents=True, exist_ok=True)
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, copy)
        except OSError:
            shutil.copy2(path, copy)
