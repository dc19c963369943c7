"""The predictions of the systems to be judged: files and run folders, several seeds of one system put together."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from launch.knowledge import corpus_of_run
from metrics.alignment import align
from metrics.columns import Predictions
from metrics.errors import InputError
from metrics.predictions import read_predictions, stream_predictions
from metrics.suite import canonical_places

Systems = dict[str, dict[str, Predictions]]  # name -> entry of each of its seeds -> what it holds
# Runs whose configs differ in these keys alone are seeds of one system.
OF_SEED = ("seed", "run_dir", "stage")


def read_systems(entries: Sequence[str]) -> Systems:
    """The predictions of each seed of each system, all aligned with the first file, in a canonical order.

    An entry is a run folder or a predictions file. Raises InputError for files that are not of the same records.
    """
    files = {entry: predictions_of(entry) for entry in entries}
    if len(files) < len(entries):
        twice = next(entry for entry in entries if list(entries).count(entry) > 1)
        raise InputError(f"{twice} is given twice; give each run once.")
    read = {entry: Predictions.of(stream_predictions(file)) for entry, file in files.items()}
    places = canonical_places(read[entries[0]])
    aligned = {entry: found.take(places) for entry, found in zip(read, align(read), strict=True)}
    kinds: dict[Any, list[str]] = {}
    for entry, file in files.items():
        kinds.setdefault(_kind(file) or entry, []).append(entry)
    names = _names([_common(members) for members in kinds.values()])
    if len(set(names)) < len(names):
        names = _names([members[0] for members in kinds.values()])
    return {name: {e: aligned[e] for e in members} for name, members in zip(names, kinds.values(), strict=True)}


def rows_of(entry: str, predictions: Predictions) -> list[dict[str, Any]]:
    """All that the file of an entry says of its records, one dict each, in the order of what was read of it."""
    rows = read_predictions(predictions_of(entry))
    return [rows[line] for line in predictions.line_N.tolist()]


def predictions_of(entry: str) -> Path:
    """The predictions file of a run folder; a file is its own."""
    path = Path(entry)
    if not path.is_dir():
        return path
    file = path / "predictions.jsonl"
    if not file.is_file():
        raise InputError(
            f"{path} holds no predictions.jsonl: its result stage has not run (stage=result); or give another run."
        )
    return file


def corpus_path(entries: Sequence[str]) -> Path | None:
    """The corpus of the first run that has one."""
    return next((path for entry in entries if (path := corpus_of_run(predictions_of(entry)))), None)


def _kind(file: Path) -> str | None:
    """What a run is a seed of: its config without the keys of a seed; None for predictions that are no run's."""
    config = file.parent / "config.yaml"
    if not config.is_file():
        return None
    try:
        tree = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{config} cannot be read ({' '.join(str(error).split())}); mend it.") from None
    if not isinstance(tree, dict):
        return None
    return yaml.safe_dump({key: value for key, value in tree.items() if key not in OF_SEED}, sort_keys=True)


def _common(members: Sequence[str]) -> str:
    """What the paths of several seeds share: runs/eqr_s1 and runs/eqr_s2 are runs/eqr; of one run its own path."""
    if len(members) == 1:
        return members[0]
    shared = re.sub(r"[-_.]?(seed|s)?[-_.]?$", "", os.path.commonprefix(list(members)))
    return shared if shared and not shared.endswith("/") else members[0]


def _names(entries: Sequence[str]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [Path(entry).with_suffix("").parts if Path(entry).suffix else Path(entry).parts for entry in entries]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-length:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return list(entries)
