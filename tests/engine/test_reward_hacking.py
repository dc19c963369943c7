"""Policies that are paid for the wrong thing: PPO's guards step in before the texts have collapsed."""

import json
import os
import subprocess
import sys

import pytest
from running import HERE

SCRIPT = """
import json
import toy_reward as toy
toy.start(toy.HardwareConfig(accelerator="cpu"))
found = {reward.__name__: toy.hacked(1, reward) for reward in (toy.length, toy.one_word, toy.listing)}
unguarded = toy.train(1, toy.one_word, "ppo", missing_end_penalty=1.0, iterations=60)
print(json.dumps(found | {"unguarded": unguarded[-1]}))
"""


@pytest.fixture(scope="module")
def hacked() -> dict:
    """By reward: figures of the first and the last rollout, and why it was the last."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        **{"cwd": HERE.parents[1] / "benchmarks", "env": environment, "timeout": 200, "check": False},
        **{"capture_output": True, "text": True},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("reward", "why"), [("length", "min_end_rate"), ("one_word", "max_kl"), ("listing", "max_kl")])
def test_a_guard_ends_the_run_while_the_texts_are_still_texts(hacked: dict, reward: str, why: str) -> None:
    seen = hacked[reward]
    assert f"ppo.guards.{why}=" in seen["reason"]
    assert seen["iterations"] < 30  # of the 60 it was given
    assert seen["last"]["reward/ccr"] > seen["first"]["reward/ccr"]  # it was being hacked
    assert seen["last"]["kl"] < 15
    assert seen["last"]["distinct_1"] > 1.5


def test_without_guards_the_policy_does_collapse(hacked: dict) -> None:
    assert hacked["unguarded"]["reward/ccr"] > 0.75  # most words are the one word
    assert hacked["unguarded"]["distinct_1"] < 1
    assert hacked["unguarded"]["kl"] > 15
