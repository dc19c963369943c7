"""What must be in a checkpoint for a run to go on from it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from pytorch_lightning.callbacks import EarlyStopping

from callbacks.checkpoints import CheckpointConfig, Checkpoints, Place
from callbacks.export_best import ExportBest, export
from callbacks.guards import PPOGuards, StopOnNonFinite
from callbacks.held_out import HeldOutEvaluation
from callbacks.requests import LockLostError, Requests
from lightning_modules.ppo.config import GuardConfig
from metrics.errors import InputError
from metrics.suite import ConceptKnowledge

PARTS = ["over", "unlogged", "loops", "lr_schedulers"]


def nobody():
    return ""


def parts(folder):
    knowledge = ConceptKnowledge(["sound"], [{0}], [set()], 1.0, 5.0)
    return [
        StopOnNonFinite(),
        EarlyStopping("loss"),
        ExportBest("loss", "min", folder, nobody),
        PPOGuards(GuardConfig()),
        HeldOutEvaluation(folder, ([0], [0]), knowledge, 1, {"ccr": 1.0}, 0.5, nobody),
    ]


def load(folder, checkpoint):
    place = Place("ppo", folder / "checkpoints", folder, folder / "metrics.csv", {}, {}, "", "copy", nobody)
    callback = Checkpoints(CheckpointConfig(), place, Requests(folder), None)
    trainer = SimpleNamespace(callbacks=[*parts(folder), callback], loggers=[], should_stop=False)
    callback.on_load_checkpoint(trainer, None, checkpoint)
    return trainer


def whole(folder):
    states = {callback.state_key: callback.state_dict() for callback in parts(folder)}
    return {"over": True, "unlogged": {}, "loops": {}, "lr_schedulers": [], "callbacks": states}


def test_a_whole_checkpoint_is_taken(tmp_path):
    assert load(tmp_path, whole(tmp_path)).should_stop


@pytest.mark.parametrize("part", [*PARTS, "callbacks"])
def test_a_checkpoint_without_one_of_its_parts_is_refused_by_name(tmp_path, part):
    checkpoint = whole(tmp_path)
    del checkpoint[part]
    with pytest.raises(InputError, match=f"lacks the state of {part}; resume from another checkpoint"):
        load(tmp_path, checkpoint)


def test_a_callback_that_lacks_any_of_its_keys_is_refused_by_both_names(tmp_path):
    seen = 0
    for callback, state in whole(tmp_path)["callbacks"].items():
        for key in state:
            checkpoint = whole(tmp_path)
            del checkpoint["callbacks"][callback][key]
            with pytest.raises(InputError) as error:
                load(tmp_path, checkpoint)
            assert f"lacks the state of callbacks.{callback}.{key};" in str(error.value)
            seen += 1
    assert seen >= 10


def test_a_copy_that_lost_the_run_folder_replaces_no_product(tmp_path):
    product = tmp_path / "export"
    product.mkdir()
    (product / "model.json").write_text("of the other copy")

    class Module:
        def export(self, folder: Path) -> None:
            (folder / "model.json").write_text("stale")

    with pytest.raises(LockLostError, match="job 8 has taken over"):
        export(Module(), product, lambda: "job 8")
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    assert (product / "model.json").read_text() == "of the other copy"
    export(Module(), product, nobody)
    assert (product / "model.json").read_text() == "stale"
