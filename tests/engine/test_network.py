"""Two ranks whose network is cut: the job ends, and a copy that lives on behind the cut touches nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running import HERE

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and iproute2"),
    pytest.mark.skipif(os.environ.get("LLM2ER_NETWORK") != "all", reason="takes a minute: set LLM2ER_NETWORK=all"),
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What network.py saw."""
    work: Path = tmp_path_factory.mktemp("network")
    done = subprocess.run(
        [sys.executable, str(HERE / "network.py"), str(work)],
        **{"capture_output": True, "text": True, "timeout": 290, "check": False},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_the_copy_behind_the_cut_stops_before_it_touches_a_checkpoint(seen: dict) -> None:
    found = seen["replaced"]
    assert found["hung"]  # in the middle of a save, until the other copy had finished
    assert found["codes"] == [1, 1]
    assert "has taken over the run folder; this copy stops and writes nothing more" in found["printed"]
    assert "Traceback" not in found["printed"]
    assert found["left_alone"]  # every file of the run is as the other copy left it
    assert not [name for name in found["checkpoints"] if name.endswith(".partial")]


def test_the_copy_that_was_started_instead_loses_nothing(seen: dict) -> None:
    found = seen["replaced"]
    assert found["again"] == [0, 0]
    assert "goes on from " in found["printed_again"]
    assert found["losses"]["same"]
    assert found["losses"]["to_the_end"]
    assert found["products"]


def test_a_cut_that_lasts_ends_the_job_in_time_with_rank_phase_and_stack(seen: dict) -> None:
    found = seen["cut_for_good"]
    assert found["codes"] == [1, 1]
    assert found["seconds"] < 60
    for rank, told in enumerate(found["told"]):
        assert f"rank {rank} of 2 on " in told
        assert "no progress for 3 s (hardware.hang_timeout) in rating, step 6: the first batch of an epoch" in told
        assert " in save_checkpoint" in told
    assert [name for name in found["checkpoints"] if not name.endswith(".partial")] == ["step-000003"]
