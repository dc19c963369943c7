"""Ranks that start again on the store of an earlier start."""

import threading
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore

from launch import meeting
from launch.meeting import meet, try_sum


def start(store, delays, limit=10.0):
    """What each rank of a start can read of the others after meeting; ranks come after `delays` seconds."""
    seen, failed = {}, []

    def rank(number, delay):
        time.sleep(delay)
        try:
            met = meet(store, number, len(delays), timedelta(seconds=limit))
        except RuntimeError as error:
            failed.append(str(error))
            return
        met.set(f"address/{number}", f"{delay}")
        met.wait([f"address/{other}" for other in range(len(delays))], timedelta(seconds=5))
        seen[number] = [met.get(f"address/{other}").decode() for other in range(len(delays))]

    threads = [threading.Thread(target=rank, args=pair) for pair in enumerate(delays)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen, failed


def test_ranks_of_a_restart_read_each_other_and_not_the_dead():
    store = HashStore()
    assert start(store, [0.0, 0.1, 0.2]) == ({rank: ["0.0", "0.1", "0.2"] for rank in range(3)}, [])
    # The last rank comes late: rank 0 finds the name that its dead predecessor left.
    assert start(store, [0.3, 0.0, 0.6]) == ({rank: ["0.3", "0.0", "0.6"] for rank in range(3)}, [])
    assert start(store, [0.2, 0.4, 0.1]) == ({rank: ["0.2", "0.4", "0.1"] for rank in range(3)}, [])


def test_a_rank_that_does_not_come_is_named():
    _, failed = start(HashStore(), [0.0, 1.0], limit=0.3)
    assert failed[0].startswith("ranks 1 did not start in time")


def test_rank_0_that_does_not_come_is_told_by_the_others():
    store = HashStore()
    with pytest.raises(RuntimeError, match="rank 0 did not answer rank 1 in time"):
        meet(store, 1, 2, timedelta(seconds=0.2))


def test_one_rank_waits_for_nobody():
    meet(HashStore(), 0, 1, timedelta(seconds=0.1)).set("a", "b")


def test_a_link_that_computes_nonsense_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)

    def add(broken):
        """Stands for the sum with rank 0, whose values are those of rank 1 less one."""

        def all_reduce(values):
            values += values.clone() - 1
            if broken:
                values[[7, 9]] += 1

        return all_reduce

    monkeypatch.setattr(dist, "all_reduce", add(broken=False))
    assert try_sum(torch.device("cpu")) < 1
    monkeypatch.setattr(dist, "all_reduce", add(broken=True))
    with pytest.raises(RuntimeError, match="2 of 250000 sums over 2 ranks are wrong: .*--exclude=NODE"):
        try_sum(torch.device("cpu"))


@pytest.mark.parametrize("ranks", [3, 4096])
def test_the_sum_over_any_number_of_ranks_is_exact(monkeypatch, ranks):
    def all_reduce(values):
        """Adds up what each rank gives, one after the other, in float32."""
        total = torch.zeros_like(values)
        for rank in range(ranks):
            total += values + rank % 2
        values.copy_(total)

    monkeypatch.setattr(meeting, "TRIED", 64)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: ranks)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    try_sum(torch.device("cpu"))
