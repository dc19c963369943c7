"""What reinforcement is for: a reward whose optimum is known is learned, and one that is hacked is stopped.

One seed of each, within the budget of benchmarks/toy_reward.py, which measures five.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPT = """
import json, toy_reward
from launch.engine import start
from launch.hardware import HardwareConfig
start(HardwareConfig(accelerator="cpu"))
found = {name: toy_reward.learned(1, name) for name in toy_reward.ALGORITHMS}
half = HardwareConfig(accelerator="cpu", precision="bf16")
found["ppo in bf16"] = toy_reward.learned(1, "ppo", half)
found["hacked"] = toy_reward.hacked(1, toy_reward.length)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict:
    """Four runs of 25 rollouts, and one that a guard ends."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{BENCHMARKS}:{BENCHMARKS.parent}"}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("algorithm", ["ppo", "ppo in bf16", "grpo", "rloo"])
def test_95_of_100_of_the_best_reward_are_reached(found: dict, algorithm: str) -> None:
    learned = found[algorithm]
    assert learned["before"] < 0.6
    assert learned["reached"] is not None
    assert learned["after"] > 0.9  # and it stays there


def test_a_policy_paid_for_length_is_stopped(found: dict) -> None:
    hacked = found["hacked"]
    assert hacked["iterations"] < 60
    assert "end" in hacked["reason"]
