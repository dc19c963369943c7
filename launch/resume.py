"""Which checkpoint a stage goes on from: `resume=auto|none|PATH`."""

import logging
import shutil
from pathlib import Path
from typing import Any

from callbacks.checkpoint_folder import (
    PARTIAL,
    Manifest,
    RejectedError,
    candidates,
    damaged,
    distrust,
    inspect,
    set_aside,
)
from callbacks.durable import link_tree, swap_folder
from callbacks.requests import restarted
from launch.llm2er_eqr import LLM2ER_EQR
from launch.run_folder import RunFolder, changed_keys
from lightning_modules.collectives import barrier, gather_objects, world
from metrics.errors import InputError

log = logging.getLogger("llm2er")

Found = tuple[Path, Manifest]


def resume_point(folder: RunFolder, stage: str) -> Found | None:
    """The checkpoint that `stage` goes on from, or None for its beginning; says which, and what was rejected.

    Collective. Raises `InputError` if what is there does not fit this run, or if nothing that is there is whole: a
    stage never starts again silently.
    """
    resume, checkpoints = folder.config.resume, folder.checkpoints(stage)
    if resume != "auto" and restarted():
        log.info("%s: resume=%s held for the first start; this is a restart, which takes the newest", stage, resume)
        resume = "auto"
    if resume == "none":
        _move_newer(checkpoints, -1)
        log.info("%s: starts at step 0 (resume=none)", stage)
        return None
    given = None if resume == "auto" else _given(Path(resume))
    found = given if given and given[1].stage == stage else _newest(checkpoints, stage)
    if found is None:
        log.info("%s: no checkpoint in %s yet, starts at step 0", stage, checkpoints)
        return None
    path, manifest = found
    fits(path, manifest, folder.state_config(stage), stage)
    if warning := distrust(path):
        log.warning("%s", warning)
    changed = [f"{name} {old}" for name, old in manifest.versions.items() if folder.versions.get(name) != old]
    if changed:
        log.warning("%s: was written with %s; losses may differ in the last digits", path, ", ".join(changed))
    _move_newer(checkpoints, manifest.step if given else -2)
    _restore_export(path, folder.export(stage))
    log.info(
        "%s: goes on from %s: step %d, epoch %d, batch %d",
        *(stage, path, manifest.step, manifest.epoch, manifest.micro_step),
    )
    return path, manifest


def fits(path: Path, manifest: Manifest, config: dict[str, Any], stage: str) -> None:
    """Refuses a checkpoint of another model, data or sharding; a longer or shorter run is allowed and told."""
    ranks = world()[1]
    if manifest.ranks != ranks:
        raise InputError(
            f"{path} was saved by {manifest.ranks} ranks, this run has {ranks}; convert it: "
            f"python launch/train.py convert={path} world_size={ranks} out={path}-{ranks}-ranks, "
            f"then give resume={path}-{ranks}-ranks"
        )
    changes = changed_keys(manifest.config, config)
    how_long = LLM2ER_EQR.length(stage)
    length = [text for key, text in changes.items() if key in how_long]
    other = [text for key, text in changes.items() if key not in how_long]
    if other:
        raise InputError(
            f"{path} was saved with another config: {', '.join(other)}; restore the values, "
            "choose another run_dir, or start the stage anew by resume=none"
        )
    if length:
        log.warning("%s: goes on with %s", stage, ", ".join(length))


def _newest(checkpoints: Path, stage: str) -> Found | None:
    """The newest whole checkpoint of a stage; rank 0 looks, all ranks share in hashing."""
    seen = gather_objects(_look(checkpoints) if world()[0] == 0 else None)[0]
    rejected, other_ranks = [], None
    for path, manifest, reason in seen:
        reason = reason or _hash(path, manifest)
        if not reason:
            if manifest.ranks != world()[1] and other_ranks is None:
                other_ranks = path, manifest  # unless it was converted
                continue
            if other_ranks is None or manifest.step == other_ranks[1].step:
                return path, manifest
            break
        rejected.append((path, reason))
        log.warning("%s: rejected %s: %s", stage, path, reason)
    if other_ranks is not None:
        return other_ranks
    complete = [f"{path.name}: {reason}" for path, reason in rejected if not path.name.endswith(PARTIAL)]
    if complete:
        raise InputError(
            f"{checkpoints}: none of the checkpoints can be used ({'; '.join(complete)}); restore one from a backup, "
            "or start the stage anew by resume=none"
        )
    return None


def _look(checkpoints: Path) -> list[tuple[Path, Manifest | None, str]]:
    found: list[tuple[Path, Manifest | None, str]] = []
    for path in candidates(checkpoints):
        try:
            found.append((path, inspect(path), ""))
        except RejectedError as error:
            found.append((path, None, str(error)))
    return found


def refuse_what_is_not_due(folder: RunFolder, due: list[str]) -> None:
    """Refuses a `resume=` whose checkpoint is of none of the stages that will be trained: it would change nothing."""
    resume = folder.config.resume
    if resume in ("auto", "none") or restarted():
        return
    stage = _inspect(Path(resume)).stage
    if stage not in due:
        finished = folder.export(stage) / "stage.json"
        why = f"not trained with stage={folder.config.stage}; give stage={stage}, or resume=auto"
        if finished.is_file():
            why = f"finished; remove {finished} to go on from there, or give resume=auto"
        raise InputError(f"resume={resume}: is of stage {stage}, which is {why}")


def _inspect(path: Path) -> Manifest:
    if not path.is_dir():
        raise InputError(f"resume={path}: no such folder; give auto, none or a .../checkpoints/step-NNNNNN")
    try:
        return inspect(path)
    except RejectedError as error:
        raise InputError(
            f"resume={path}: is no checkpoint to go on from: {error}; give auto, none or a .../checkpoints/step-NNNNNN"
        ) from error


def _given(path: Path) -> Found:
    manifest = _inspect(path)
    if reason := _hash(path, manifest):
        raise InputError(f"resume={path}: is no checkpoint to go on from: {reason}; give auto or another one")
    return path, manifest


def _hash(path: Path, manifest: Manifest) -> str:
    rank, ranks = world()
    bad = [
        name for part in gather_objects(damaged(path, manifest, sorted(manifest.files)[rank::ranks])) for name in part
    ]
    return f"{bad[0]} has another content than its manifest says" if bad else ""


def _move_newer(checkpoints: Path, step: int) -> None:
    """A run that goes back must not find the later steps of the abandoned one; -2 moves nothing."""
    if step > -2 and world()[0] == 0 and (place := set_aside(checkpoints, step)):
        log.warning("checkpoints of later steps were moved to %s", place)
    barrier()


def _restore_export(path: Path, export: Path) -> None:
    """The best product as it was when the checkpoint was made."""
    if world()[0] == 0:
        partial = export.with_name(f"{export.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        if (path / "export").is_dir():
            link_tree(path / "export", partial)
            swap_folder(partial, export)
        else:
            shutil.rmtree(export, ignore_errors=True)
    barrier()
