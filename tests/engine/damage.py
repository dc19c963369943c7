"""Ways in which a file of a checkpoint is damaged, and what is said of the checkpoint then."""

from pathlib import Path

from callbacks.checkpoint_folder import RejectedError, damaged, inspect


def rejected(path: Path) -> str:
    """Why a folder is no checkpoint, or ""."""
    try:
        manifest = inspect(path)
    except RejectedError as error:
        return str(error)
    return ", ".join(damaged(path, manifest, manifest.files))


def truncate(file: Path, other: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def zero(file: Path, other: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def flip(file: Path, other: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def remove(file: Path, other: Path) -> None:
    file.unlink()


def swap(file: Path, other: Path) -> None:
    """Puts another step's file there; where both steps' are the same (an export), another file of the same size."""
    content = other.read_bytes() if other.is_file() else b""
    file.write_bytes(content if content != file.read_bytes() else bytes(len(content)))


WAYS = (truncate, zero, flip, remove, swap)
