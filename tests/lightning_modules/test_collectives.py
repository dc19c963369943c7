"""The end of a process group."""

import subprocess
import sys

import pytest

RANK = """
import logging, os, sys, time
import torch.distributed as dist
from lightning_modules.collectives import part
store, rank, other = sys.argv[1:]
logging.basicConfig(format="%(message)s")
dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=2)
dist.barrier()
if (rank, other) == ("0", "dies"):
    open(store + ".met", "w").close()
if (rank, other) == ("1", "dies"):
    while not os.path.exists(store + ".met"):
        time.sleep(0.01)
    os._exit(3)
part()
assert not dist.is_initialized()
"""


@pytest.mark.parametrize(("other", "codes"), [("stays", [0, 0]), ("dies", [0, 3])])
def test_ranks_leave_together_and_one_that_died_costs_no_other_its_result(other, codes, tmp_path):
    command = [sys.executable, "-c", RANK, str(tmp_path / "store")]
    ranks = [subprocess.Popen([*command, rank, other], stderr=subprocess.PIPE, text=True) for rank in ("0", "1")]
    told = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == codes, told
    assert ("another rank ended before all work was over" in told[0]) == (other == "dies")
