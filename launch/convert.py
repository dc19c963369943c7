"""Writes a checkpoint anew for another number of ranks: `convert=PATH world_size=N out=FOLDER`."""

import argparse
import contextlib
import io
import shutil
from dataclasses import replace
from pathlib import Path

from deepspeed.checkpoint import ds_to_universal

from callbacks.checkpoint_folder import RejectedError, damaged, digest, files_of, inspect
from callbacks.durable import link_tree, swap_folder
from launch.engine import SHARDS
from metrics.errors import InputError


def convert(path: Path, ranks: int, out: Path) -> str:
    """Converts; returns the sentence that tells it.

    DeepSpeed's own tool merges the shards by parameter. Random states belong to a rank and are not carried over: losses
    go on, but with other dropout masks.
    """
    if ranks < 1:
        raise InputError(f"world_size={ranks}: say for how many ranks {path} is to be converted")
    if not str(out) or str(out) == "." or out.exists():
        raise InputError(f"out={out}: give a folder that does not exist yet")
    if not path.is_dir():
        raise InputError(f"convert={path}: no such folder; give a .../checkpoints/step-NNNNNN")
    try:
        manifest = inspect(path)
    except RejectedError as error:
        raise InputError(f"convert={path}: is no complete checkpoint: {error}") from error
    if bad := damaged(path, manifest, manifest.files):
        raise InputError(f"convert={path}: {bad[0]} has another content than its manifest says")
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / SHARDS).mkdir(parents=True)
    if (path / "export").is_dir():
        link_tree(path / "export", partial / "export")
    sharded = manifest.config["zero.stage"] > 0
    if manifest.universal or not sharded:
        link_tree(path / SHARDS, partial / SHARDS)  # whole, or by parameter already
    else:
        _merge(path / SHARDS, partial / SHARDS)
    files = {name: digest(partial / name) for name in files_of(partial)}
    replace(manifest, ranks=ranks, universal=True, files=files).write(partial)
    swap_folder(partial, out)
    return f"{path} ({manifest.ranks} ranks) converted to {out} ({ranks} ranks); resume={out}, or auto, goes on from it"


def _merge(shards: Path, target: Path) -> None:
    arguments = argparse.Namespace(
        input_folder=str(shards),
        output_folder=str(target),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(arguments)
    (target.parent / "latest_universal").unlink()  # the tag is always the same here
