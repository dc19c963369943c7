"""What counts as a checkpoint, which are removed, and in which order."""

import json
from pathlib import Path

import pytest

from callbacks import checkpoint_folder
from callbacks.checkpoint_folder import (
    MANIFEST,
    Manifest,
    RejectedError,
    candidates,
    damaged,
    digest,
    distrust,
    files_of,
    inspect,
    prune,
    publish,
    set_aside,
    step_name,
)


def save(folder: Path, step: int, best: bool = False) -> Path:
    """A small checkpoint, written as real ones are: staged, sealed, published."""
    partial = folder / f"{step_name(step)}.partial"
    (partial / "shards").mkdir(parents=True)
    (partial / "shards" / "weights.pt").write_bytes(bytes([step]) * 100)
    (partial / "random-00000.pt").write_bytes(b"state")
    files = {name: digest(partial / name) for name in files_of(partial)}
    manifest = Manifest("rating", step, 1, 2, ranks=2, config={"seed": 7}, versions={}, files=files, best=best)
    manifest.write(partial)
    return publish(partial)


def names(folder: Path) -> list[str]:
    return [path.name for path in candidates(folder)]


def reason(path: Path) -> str:
    with pytest.raises(RejectedError) as error:
        inspect(path)
    return str(error.value)


def test_a_published_checkpoint_is_whole_and_says_what_it_is(tmp_path):
    path = save(tmp_path, 12)
    manifest = inspect(path)
    assert damaged(path, manifest, manifest.files) == []
    assert (manifest.stage, manifest.step, manifest.epoch, manifest.micro_step, manifest.ranks) == (
        "rating",
        12,
        1,
        2,
        2,
    )
    assert names(tmp_path) == ["step-000012"]


@pytest.mark.parametrize("stop_after", ["nothing", "a shard", "all files", "the manifest"])
def test_a_save_that_was_cut_off_is_no_checkpoint_and_is_swept_by_the_next(tmp_path, stop_after):
    save(tmp_path, 10)
    partial = tmp_path / "step-000020.partial"
    if stop_after == "the manifest":
        save(tmp_path, 20).rename(partial)
    else:
        partial.mkdir()
        if stop_after != "nothing":
            (partial / "weights.pt").write_bytes(b"w")
    assert reason(partial) == "the save was cut off"
    save(tmp_path, 30)
    prune(tmp_path, keep=2, keep_best=False)
    assert names(tmp_path) == ["step-000030", "step-000010"]


def test_shards_of_two_steps_are_not_taken_for_one_checkpoint(tmp_path):
    older, newer = save(tmp_path, 10), save(tmp_path, 20)
    (newer / "shards" / "weights.pt").write_bytes((older / "shards" / "weights.pt").read_bytes())  # of the same size
    assert damaged(newer, inspect(newer), files_of(newer)) == ["shards/weights.pt"]


def test_a_checkpoint_under_the_name_of_another_step_is_rejected(tmp_path):
    path = save(tmp_path, 10)
    path.rename(tmp_path / "step-000020")
    assert reason(tmp_path / "step-000020") == "its manifest is that of step-000010"


def test_missing_strange_and_linked_files_are_named(tmp_path):
    path = save(tmp_path, 10)
    (path / "extra_optim_states.pt").write_bytes(b"")
    assert reason(path) == "extra_optim_states.pt is not in its manifest"
    (path / "extra_optim_states.pt").unlink()
    weights = path / "shards" / "weights.pt"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(weights.read_bytes())
    weights.unlink()
    assert reason(path) == "shards/weights.pt is missing"
    weights.symlink_to(elsewhere)
    assert reason(path) == "shards/weights.pt is a symbolic link"


def test_a_manifest_that_was_edited_is_damaged(tmp_path):
    path = save(tmp_path, 10)
    text = (path / MANIFEST).read_text()
    (path / MANIFEST).write_text(text.replace('"epoch": 1', '"epoch": 2'))
    assert reason(path) == "manifest.json is damaged"


def test_a_checkpoint_of_a_newer_version_is_told_as_such_and_never_removed(tmp_path, monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr(checkpoint_folder, "FORMAT", 2)
        path = save(tmp_path, 10)
    assert reason(path) == "a newer version of llm2er wrote it (format 2, known is 1)"
    save(tmp_path, 20)
    save(tmp_path, 30)
    prune(tmp_path, keep=1, keep_best=False)
    assert names(tmp_path) == ["step-000030", "step-000010"]


def test_a_manifest_that_lacks_a_key_names_it(tmp_path):
    path = save(tmp_path, 10)
    tree = json.loads((path / MANIFEST).read_text())
    del tree["micro_step"], tree["seal"]
    seal = checkpoint_folder._seal(tree)
    (path / MANIFEST).write_text(json.dumps(tree | {"seal": seal}) + "\n")
    assert reason(path) == "manifest.json lacks or has unknown keys: micro_step"


def test_at_no_instant_is_there_no_complete_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, 10)
    complete = []

    def watched(original):
        def call(*arguments, **options):
            complete.append([path.name for path in candidates(tmp_path) if not path.name.endswith(".partial")])
            done = original(*arguments, **options)
            complete.append([path.name for path in candidates(tmp_path) if not path.name.endswith(".partial")])
            return done

        return call

    monkeypatch.setattr(Path, "rename", watched(Path.rename))
    monkeypatch.setattr("callbacks.checkpoint_folder.shutil.rmtree", watched(checkpoint_folder.shutil.rmtree))
    save(tmp_path, 20)
    prune(tmp_path, keep=1, keep_best=False)
    assert complete
    assert all(complete)
    assert names(tmp_path) == ["step-000020"]


def test_the_newest_and_the_best_are_kept(tmp_path):
    for step, best in ((1, True), (2, True), (3, False), (4, False), (5, False)):
        save(tmp_path, step, best)
    prune(tmp_path, keep=2, keep_best=True)
    assert names(tmp_path) == ["step-000005", "step-000004", "step-000002"]


def test_a_rejected_checkpoint_of_the_same_step_is_replaced(tmp_path):
    path = save(tmp_path, 10)
    (path / "random-00000.pt").unlink()
    save(tmp_path, 10)
    assert inspect(path).step == 10


def test_going_back_moves_later_steps_aside(tmp_path):
    for step in (10, 20, 30):
        save(tmp_path, step)
    place = set_aside(tmp_path, 10)
    assert names(tmp_path) == ["step-000010"]
    assert sorted(path.name for path in place.iterdir()) == ["step-000020", "step-000030"]
    save(tmp_path, 20)
    assert set_aside(tmp_path, 10).name == "set-aside-2"
    assert set_aside(tmp_path, 10) is None


def test_steps_are_ordered_as_numbers(tmp_path):
    for step in (999_999, 1_000_000):
        partial = tmp_path / f"{step_name(step)}.partial"
        partial.mkdir()
        Manifest("rating", step, 0, 0, 1, {}, {}, {}).write(partial)
        publish(partial)
    assert names(tmp_path) == ["step-1000000", "step-999999"]


def test_a_folder_that_others_can_write_is_not_trusted_silently(tmp_path):
    path = save(tmp_path, 10)
    path.chmod(0o755)
    assert distrust(path) == ""
    path.chmod(0o777)
    assert "can be written by everybody" in distrust(path)
