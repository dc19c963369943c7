"""A checkpoint that an earlier version has written is still read: format-1/ is a real one of version 0.1.0.

One rank, rating stage, `rating.model.width=4`; a change of the format adds a folder beside it and leaves this one.
"""

from pathlib import Path

import torch

from callbacks.checkpoint_folder import damaged, inspect
from callbacks.random_state import read_random_state
from launch.shards import DurableShards

PATH = Path(__file__).parent / "format-1" / "step-000006"


def test_its_manifest_is_whole():
    manifest = inspect(PATH)
    assert damaged(PATH, manifest, manifest.files) == []
    assert (manifest.stage, manifest.step, manifest.ranks) == ("rating", 6, 1)
    assert manifest.config["rating.model.width"] == 4


def test_its_shards_hold_every_part_of_the_state():
    model = DurableShards().load(str(PATH / "shards" / "mp_rank_00_model_states.pt"))
    assert {"over", "unlogged", "loops", "lr_schedulers", "callbacks"} <= model.keys()
    assert model["global_steps"] == 6
    assert model["module"]
    optimizer = DurableShards().load(str(PATH / "shards" / "zero_pp_rank_0_mp_rank_00_optim_states.pt"))
    assert "optimizer_state_dict" in optimizer


def test_its_random_state_is_taken_up():
    before = torch.get_rng_state()
    read_random_state(PATH, 0)
    assert not torch.equal(torch.get_rng_state(), before)
