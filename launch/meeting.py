"""Where the ranks of one start find each other, and not those of an earlier one; and whether they can work together.

torchrun keeps one key-value store through its restarts: ranks would look for addresses that dead ones left there. Its
restart count cannot tell the starts apart, because every node counts only the restarts of its own ranks.
"""

import time
import uuid
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store

TRIED = 250_000  # float32 values, 1 MB: of the size of the messages of training, not of a few bytes


def meet(store: Store, rank: int, ranks: int, limit: timedelta) -> PrefixStore:
    """The part of `store` that belongs to the ranks that are starting now; every one of them must call it.

    Each rank offers a name that no earlier start had; rank 0 answers by that name with the name of the meeting, and
    goes on when all have nodded at it, which the dead cannot. Raises RuntimeError where some do not come in time.
    """
    me, deadline = uuid.uuid4().hex, time.monotonic() + limit.total_seconds()
    store.set(f"here/{rank}", me)
    if rank == 0:
        meeting, absent = uuid.uuid4().hex, set(range(1, ranks))
        while absent:
            for other in sorted(absent):
                if store.check([f"here/{other}"]):
                    store.set(f"meeting/{other}/{store.get(f'here/{other}').decode()}", meeting)
            absent = {other for other in absent if not store.check([f"nod/{meeting}/{other}"])}
            _wait(deadline, f"ranks {', '.join(map(str, sorted(absent)))} did not start", absent)
    else:
        answer = f"meeting/{rank}/{me}"
        while not store.check([answer]):
            _wait(deadline, f"rank 0 did not answer rank {rank}", {0})
        meeting = store.get(answer).decode()
        store.set(f"nod/{meeting}/{rank}", "")
    return PrefixStore(meeting, store)


def try_sum(device: torch.device) -> float:
    """Adds 1 MB over all ranks as training does, so that a link or a GPU that computes nonsense is known at once.

    Returns the seconds that the second sum took; the first one connects. Collective. Raises RuntimeError where a sum is
    wrong: no mistake of the user's, so that a batch script may try again on other nodes.
    """
    rank, ranks = dist.get_rank(), dist.get_world_size()
    place = torch.arange(TRIED, device=device) % 16 + 1.0  # sums of small whole numbers are exact in float32
    expected = ranks * place + ranks // 2
    for _ in range(2):
        values = place + rank % 2
        began = time.monotonic()
        dist.all_reduce(values)
        wrong = int((values != expected).sum())
        seconds = time.monotonic() - began
        if wrong:
            raise RuntimeError(
                f"{wrong} of {TRIED} sums over {ranks} ranks are wrong: a link or a GPU is faulty, leave out its node "
                "by sbatch --exclude=NODE"
            )
    return seconds


def _wait(deadline: float, otherwise: str, absent: set[int]) -> None:
    if absent and time.monotonic() > deadline:
        raise RuntimeError(f"{otherwise} in time; look for its last lines in the log of its node")
    if absent:
        time.sleep(0.02)
