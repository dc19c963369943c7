"""The random generators of one rank, as a file that `torch.load(weights_only=True)` reads."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metrics.errors import InputError


def capture() -> dict[str, Any]:
    """The state of Python's, NumPy's, torch's and, where there is one, the CUDA device's generator."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - libraries draw from it
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore(state: dict[str, Any]) -> None:
    """Sets every generator; the inverse of `capture`."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def write_random_state(folder: Path, rank: int) -> None:
    """Writes `random-00000.pt` through to the disk."""
    with (folder / name(rank)).open("wb") as file:
        torch.save(capture(), file)
        file.flush()
        os.fsync(file.fileno())


def read_random_state(folder: Path, rank: int) -> None:
    """Reads and sets what `write_random_state` wrote."""
    state = torch.load(folder / name(rank), map_location="cpu", weights_only=True)
    if missing := {"python", "numpy", "torch", "cuda"} - state.keys():
        raise InputError(f"{folder / name(rank)}: lacks {', '.join(sorted(missing))}; resume from another checkpoint")
    restore(state)


def name(rank: int) -> str:
    """The file of a rank."""
    return f"random-{rank:05d}.pt"
