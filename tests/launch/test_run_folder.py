"""The folder of a run: what it remembers of the request, and when a finished stage may be used again."""

import json
import re
from dataclasses import replace

import pytest

from launch.config import load
from launch.run_folder import RunFolder, changed_keys
from launch.run_lock import InUseError
from launch.schema import TrainConfig
from metrics.errors import InputError

STAGES = ("rating", "explanation", "ccr", "hqar", "ppo")


@pytest.fixture
def folder(tmp_path):
    """folder(key=value, ...) -> the run folder of a config that gives those keys; always the same path."""

    def make(*arguments, corpus="checksum"):
        config, _ = load(TrainConfig, [f"run_dir={tmp_path / 'run'}", *arguments])
        made = RunFolder(config)
        made.corpus = corpus
        return made

    return make


def test_recording_writes_a_config_that_gives_the_same_run_again(folder):
    run = folder("seed=3", "prompt.instruction=explain this", "rating.fit.lr=1e-5")
    run.open()
    run.record()
    assert load(TrainConfig, [str(run.path / "config.yaml")])[0] == run.config


def test_recording_writes_versions_and_command(folder, monkeypatch):
    monkeypatch.setattr("sys.argv", ["launch/train.py", "run_dir=my runs"])
    run = folder()
    run.open()
    run.record()
    versions = json.loads((run.path / "versions.json").read_text())
    assert {"torch", "deepspeed", "transformers", "python"} <= versions.keys()
    assert (run.path / "command.txt").read_text() == "launch/train.py 'run_dir=my runs'\n"


def test_a_run_folder_that_cannot_be_made_is_an_input_error(folder, tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(InputError, match=rf"run_dir={re.escape(str(tmp_path / 'run'))}: cannot be created"):
        folder().open()


def test_a_run_folder_in_use_is_told_as_that(folder, monkeypatch):
    def refuse(say):
        raise InUseError("run_dir=runs/mine is in use by job 8")

    run = folder()
    monkeypatch.setattr(run.lock, "acquire", refuse)
    with pytest.raises(InUseError, match="is in use by job 8"):
        run.open()


def test_a_stage_is_done_when_it_was_finished_and_not_before(folder):
    run = folder()
    assert not run.done("rating")
    run.stage("rating").mkdir(parents=True)
    run.export("rating").mkdir()
    assert not run.done("rating")
    run.finish("rating", {"valid_rmse": 0.9})
    assert run.done("rating")
    assert folder().done("rating")
    assert not run.done("explanation")


def test_the_marker_holds_the_summary(folder):
    run = folder()
    run.finish("ccr", {"accuracy": 0.5})
    marker = json.loads((run.export("ccr") / "stage.json").read_text())
    assert marker["stage"] == "ccr"
    assert marker["summary"] == {"accuracy": 0.5}


def finish_all(run):
    for stage in STAGES:
        run.finish(stage, {})


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ("seed=8", STAGES),
        ("data.embedded_users=9", STAGES),
        ("graph.folds=3", STAGES),
        ("rating.fit.lr=0.5", STAGES),
        ("prompt.max_new_tokens=9", ("explanation", "hqar", "ppo")),
        ("explanation.fit.epochs=3", ("explanation", "hqar", "ppo")),
        ("ccr.temperature=0.5", ("ccr", "ppo")),
        ("hqar.clip=0.2", ("hqar", "ppo")),
        ("ppo.gamma=0.5", ("ppo",)),
        ("ppo.guards.max_kl=5", ("ppo",)),
        ("result.examples=3", ()),
        ("logger=none", ()),
        ("zero.stage=3", ()),
        ("hardware.precision=bf16", ()),
        ("stage=ppo", ()),
    ],
)
def test_a_changed_key_makes_the_stages_stale_that_depend_on_it_and_no_others(folder, change, stale):
    finish_all(folder())
    changed = folder(change)
    for stage in STAGES:
        if stage in stale:
            with pytest.raises(InputError, match=re.escape(change.split("=")[0])):
                changed.done(stage)
        else:
            assert changed.done(stage)


def test_every_changed_key_is_named_with_both_values_and_the_remedies(folder, tmp_path):
    folder("seed=3").finish("rating", {})
    with pytest.raises(InputError) as error:
        folder("seed=4", "graph.folds=5", "rating.model.width=64").done("rating")
    message = str(error.value)
    for part in ("seed (was 3, is 4)", "graph.folds (was 20, is 5)", "rating.model.width (was 128, is 64)"):
        assert part in message
    for remedy in ("choose another run_dir", "restore the values", f"delete {tmp_path / 'run' / 'rating'}"):
        assert remedy in message
    assert "ppo." not in message


def test_another_corpus_makes_a_stage_stale(folder):
    folder().finish("rating", {})
    with pytest.raises(InputError, match=r"checksum of the corpus \(was 'checksum', is 'other'\)"):
        folder(corpus="other").done("rating")


def test_a_key_that_a_later_version_has_added_counts_as_its_default(folder):
    run = folder()
    run.finish("rating", {})
    marker = run.export("rating") / "stage.json"
    old = json.loads(marker.read_text())
    del old["config"]["graph.folds"]
    marker.write_text(json.dumps(old))
    assert run.done("rating")
    with pytest.raises(InputError, match=r"graph\.folds \(was 20, is 3\)"):
        folder("graph.folds=3").done("rating")


def test_a_stage_may_come_from_another_run(folder, tmp_path):
    other = RunFolder(replace(TrainConfig(), run_dir=str(tmp_path / "other")))
    other.corpus = "checksum"
    other.finish("rating", {})
    run = folder(f"rating.init_from={tmp_path / 'other' / 'rating'}")
    assert run.done("rating")
    assert run.export("rating") == tmp_path / "other" / "rating" / "export"
    assert run.need("rating", "explanation") == run.export("rating")


def test_a_stage_of_another_run_that_is_not_there_is_refused_by_key(folder, tmp_path):
    with pytest.raises(InputError, match=rf"rating\.init_from={re.escape(str(tmp_path))}: no finished rating stage"):
        folder(f"rating.init_from={tmp_path}").done("rating")


def test_a_needed_stage_that_is_not_finished_names_the_one_to_run(folder):
    with pytest.raises(InputError, match=r"stage=ppo reads .*hqar/export, which is not there; run stage=hqar first"):
        folder().need("hqar", "ppo")


def test_a_checkpoint_of_a_discriminator_whose_trunk_was_frozen_fits_no_more(folder):
    """An earlier version left the trunk that was read from adapters frozen, and out of the checkpoint."""
    run = folder()
    before = run.state_config("hqar")
    run.learning["hqar"] = "trunk and head"
    assert list(changed_keys(before, run.state_config("hqar")).values()) == [
        "what learns in hqar (was None, is 'trunk and head')"
    ]
    assert run.state_config("ccr") == folder().state_config("ccr")
    run.finish("hqar", {})
    assert folder().done("hqar")  # its product goes on to serve


def test_the_commit_of_a_base_model_is_part_of_the_state_and_stands_beside_the_product(folder):
    run = folder()
    plain = run.state_config("ccr")
    run.note_revision("ccr", None)  # a model of a folder
    assert run.state_config("ccr") == plain
    run.note_revision("ccr", "4f2c")
    assert run.state_config("ccr") == plain | {"revision of ccr.model": "4f2c"}
    assert run.state_config("rating") == folder().state_config("rating")
    run.finish("ccr", {})
    assert json.loads((run.export("ccr") / "stage.json").read_text())["revision"] == "4f2c"
    assert run.done("ccr")
