"""Which checkpoint a stage goes on from, and what is refused in one sentence."""

import logging
from pathlib import Path

import pytest

from callbacks import checkpoint_folder
from callbacks.checkpoint_folder import Manifest, digest, files_of, inspect, publish, step_name
from launch.config import load
from launch.resume import fits, refuse_what_is_not_due, resume_point
from launch.run_folder import RunFolder
from launch.schema import TrainConfig
from metrics.errors import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """folder(key=value, ...) -> the run folder of a config that gives those keys; always the same path."""
    for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)

    def make(*arguments):
        made = RunFolder(load(TrainConfig, [f"run_dir={tmp_path / 'run'}", *arguments])[0])
        made.corpus = "checksum"
        return made

    return make


def save(run: RunFolder, step: int, stage: str = "rating", ranks: int = 1, product: str = "") -> Path:
    partial = run.checkpoints(stage) / f"{step_name(step)}.partial"
    (partial / "shards").mkdir(parents=True)
    (partial / "shards" / "weights.pt").write_bytes(bytes(step))
    if product:
        (partial / "export").mkdir()
        (partial / "export" / "model.json").write_text(product)
    files = {name: digest(partial / name) for name in files_of(partial)}
    Manifest(stage, step, 1, 2, ranks, run.state_config(stage), run.versions, files).write(partial)
    return publish(partial)


def refused(run: RunFolder, stage: str = "rating") -> str:
    with pytest.raises(InputError) as error:
        resume_point(run, stage)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_without_a_checkpoint_the_stage_starts_at_step_0_and_says_so(folder, caplog):
    caplog.set_level(logging.INFO, "llm2er")
    assert resume_point(folder(), "rating") is None
    assert "no checkpoint in " in caplog.text
    assert "starts at step 0" in caplog.text


def test_the_newest_whole_checkpoint_is_taken_and_the_rejected_are_named(folder, caplog):
    run = folder()
    good, bad = save(run, 10), save(run, 20)
    (bad / "shards" / "weights.pt").write_bytes(bytes([1]) * 20)
    (run.checkpoints("rating") / "step-000030.partial").mkdir()
    caplog.set_level(logging.INFO, "llm2er")
    assert resume_point(run, "rating")[0] == good
    assert f"rejected {bad}: shards/weights.pt has another content than its manifest says" in caplog.text
    assert "step-000030.partial: the save was cut off" in caplog.text
    assert f"goes on from {good}: step 10, epoch 1, batch 2" in caplog.text


def test_where_nothing_whole_is_left_the_stage_does_not_start_again_silently(folder):
    run = folder()
    (save(run, 10) / "shards" / "weights.pt").unlink()
    told = refused(run)
    assert "none of the checkpoints can be used (step-000010: shards/weights.pt is missing)" in told
    assert "resume=none" in told
    assert resume_point(folder("resume=none"), "rating") is None


def test_a_first_save_that_was_cut_off_leaves_a_start_at_step_0(folder):
    run = folder()
    (run.checkpoints("rating") / "step-000000.partial").mkdir(parents=True)
    assert resume_point(run, "rating") is None


def test_resume_none_moves_what_was_there_aside(folder):
    run = folder()
    save(run, 10)
    assert resume_point(folder("resume=none"), "rating") is None
    assert (run.checkpoints("rating") / "set-aside-1" / "step-000010").is_dir()
    assert resume_point(folder(), "rating") is None


def test_a_given_checkpoint_is_taken_and_later_ones_are_moved_aside(folder):
    run = folder()
    older, newer = save(run, 10), save(run, 20)
    assert resume_point(folder(f"resume={older}"), "rating")[1].step == 10
    assert not newer.exists()
    assert resume_point(folder(), "rating")[0] == older


def test_a_given_checkpoint_holds_for_its_own_stage_and_for_the_first_start(folder, monkeypatch):
    run = folder()
    older, _ = save(run, 10), save(run, 20)
    save(run, 5, stage="ccr")
    assert resume_point(folder(f"resume={older}"), "ccr")[1].step == 5
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert resume_point(folder(f"resume={older}"), "rating")[1].step == 20
    assert resume_point(folder("resume=none"), "rating")[1].step == 20


@pytest.mark.parametrize("what", ["missing", "empty", "export"])
def test_a_path_that_is_no_checkpoint_is_refused(folder, tmp_path, what):
    path = tmp_path / what
    if what != "missing":
        path.mkdir()
    if what == "export":
        (path / "stage.json").write_text("{}")
    told = refused(folder(f"resume={path}"))
    assert told.startswith(f"resume={path}: ")
    assert ("no such folder" if what == "missing" else "no checkpoint to go on from: it has no manifest.json") in told


def test_a_given_checkpoint_of_a_newer_version_is_refused_as_that(folder, monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr(checkpoint_folder, "FORMAT", 2)
        path = save(folder(), 10)
    told = refused(folder(f"resume={path}"))
    assert f"resume={path}: is no checkpoint to go on from: a newer version of llm2er wrote it (format 2" in told


def test_a_given_checkpoint_whose_content_is_damaged_is_refused_with_the_file(folder):
    path = save(folder(), 10)
    (path / "shards" / "weights.pt").write_bytes(bytes([1]) * 10)
    told = refused(folder(f"resume={path}"))
    assert told.startswith(f"resume={path}: is no checkpoint to go on from: shards/weights.pt has another content")


def test_a_given_checkpoint_of_a_stage_that_is_not_trained_now_is_no_silent_nothing(folder, monkeypatch):
    path = save(folder(), 10, stage="ccr")
    run = folder(f"resume={path}", "stage=rating")
    refuse_what_is_not_due(run, ["rating", "ccr"])
    with pytest.raises(InputError, match="is of stage ccr, which is not trained with stage=rating; give stage=ccr"):
        refuse_what_is_not_due(run, ["rating"])
    run.finish("ccr", {})
    with pytest.raises(
        InputError, match=r"is of stage ccr, which is finished; remove \S+ccr/export/stage.json to go on"
    ):
        refuse_what_is_not_due(run, ["rating"])
    with pytest.raises(InputError, match="no such folder"):
        refuse_what_is_not_due(folder("resume=nowhere"), ["rating"])
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # it held for the first start, which may have finished it
    refuse_what_is_not_due(run, ["rating"])


def test_keys_of_the_model_are_refused_by_name_with_both_values(folder):
    path = save(folder(), 10)
    told = refused(folder("rating.model.width=64", "zero.stage=3", "rating.fit.epochs=9"))
    assert told.startswith(f"{path} was saved with another config: ")
    assert "rating.model.width (was 128, is 64)" in told
    assert "zero.stage (was 2, is 3)" in told
    assert "rating.fit.epochs" not in told


def test_keys_of_the_runs_length_are_allowed_and_told(folder, caplog):
    save(folder(), 10)
    assert resume_point(folder("rating.fit.epochs=99"), "rating")[1].step == 10
    assert "goes on with rating.fit.epochs (was 60, is 99)" in caplog.text


def test_another_number_of_ranks_names_the_command_that_converts(folder):
    path = save(folder(), 10, ranks=4)
    told = refused(folder())
    assert f"python launch/train.py convert={path} world_size=1 out={path}-1-ranks" in told


def test_a_converted_checkpoint_is_found_beside_the_one_it_was_made_of(folder):
    run = folder()
    save(run, 10, ranks=4)
    converted = run.checkpoints("rating") / "step-000010-1-ranks"
    converted.mkdir()
    config, versions = run.state_config("rating"), run.versions
    Manifest("rating", 10, 1, 2, 1, config, versions, {}, universal=True).write(converted)
    assert resume_point(run, "rating")[0] == converted
    save(run, 20, ranks=4)  # and the four ranks went on: the converted one is old
    assert "step-000020 was saved by 4 ranks, this run has 1" in refused(run)


def test_the_best_product_is_put_back_as_it_was(folder):
    run = folder()
    save(run, 10, product="old")
    run.export("rating").mkdir(parents=True)
    (run.export("rating") / "model.json").write_text("of a step that is repeated")
    (run.export("rating") / "half.safetensors").write_text("")
    resume_point(run, "rating")
    assert [(path.name, path.read_text()) for path in run.export("rating").iterdir()] == [("model.json", "old")]


def test_a_product_that_came_later_than_the_checkpoint_is_removed(folder):
    run = folder()
    save(run, 10)
    run.export("rating").mkdir(parents=True)
    resume_point(run, "rating")
    assert not run.export("rating").exists()


def test_a_checkpoint_from_before_a_key_existed_is_one_of_its_default(folder):
    run = folder()
    path = save(run, 10)
    manifest = inspect(path)
    del manifest.config["graph.folds"]
    fits(path, manifest, run.state_config("rating"), "rating")
    with pytest.raises(InputError, match=r"graph\.folds \(was 20, is 3\)"):
        fits(path, manifest, folder("graph.folds=3").state_config("rating"), "rating")
