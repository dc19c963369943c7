"""Work on records dealt to the ranks of torchrun, with results that do not know how many ranks there were.

Records are cut into batches of a fixed size whatever the number of ranks, and the batches are dealt in turn. What a
record gets can then depend on its batch (the padding of a model's input) and on nothing else.
"""

# N records · C columns

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


def ranks() -> tuple[int, int]:
    """(rank, number of ranks) as torchrun says; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined() -> Iterator[None]:
    """The ranks of torchrun joined over gloo inside; nothing, and no torch, for a single process."""
    if ranks()[1] == 1:
        yield
        return
    import torch.distributed as dist

    from lightning_modules.collectives import part

    dist.init_process_group("gloo")
    yield
    part()


def rows(rows_of: Callable[[Any], np.ndarray], records: Any, batch: int) -> np.ndarray:
    """rows_NC, on every rank: `rows_of` each batch of records (a slice of them), computed on one of the ranks.

    Ranks may get fewer batches than others, or none. Collective: every rank must call it.
    """
    rank, world = ranks()
    starts = range(0, len(records), batch)
    own = [rows_of(records[start : start + batch]) for start in starts[rank::world]]
    if world == 1:
        return np.concatenate(own)
    from lightning_modules.collectives import gather_objects

    parts = gather_objects(own)
    return np.concatenate([parts[number % world][number // world] for number in range(len(starts))])
