"""Where the ranks of one start find each other, and not those of an earlier one.

torchrun keeps one key-value store through its restarts: ranks would look for addresses that dead ones left there. Its
restart count cannot tell the starts apart, because every node counts only the restarts of its own ranks.
"""

import time
import uuid
from datetime import timedelta

from torch.distributed import PrefixStore, Store


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


def _wait(deadline: float, otherwise: str, absent: set[int]) -> None:
    if absent and time.monotonic() > deadline:
        raise RuntimeError(f"{otherwise} in time; look for its last lines in the log of its node")
    if absent:
        time.sleep(0.02)
