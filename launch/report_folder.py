"""What a report reads of a run folder. Every part is optional; one that is there but broken is an error."""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launch.llm2er_eqr import LLM2ER_EQR
from metrics.errors import InputError
from metrics.predictions import read_predictions

STAGES = LLM2ER_EQR.names
BACKBONE, FULL = "LLM2ER", "LLM2ER-EQR"
PREDICTIONS = {BACKBONE: "explanation/predictions.jsonl", FULL: "predictions.jsonl"}


@dataclass(frozen=True)
class Curve:
    """One logged figure over optimizer steps."""

    points: list[tuple[int, float]]  # (step, value), steps ascending
    not_finite: int  # values that cannot be drawn


@dataclass(frozen=True)
class Run:
    """The parts of a run folder; empty where a part is absent."""

    path: Path
    config: dict[str, Any]  # dotted key -> value
    versions: dict[str, Any]
    command: str
    metrics: dict[str, Any]
    curves: dict[str, dict[str, Curve]]  # stage -> name of the figure -> curve
    finished: list[str]  # stages whose product is complete
    warnings: list[str]  # what the stages said that must not be overlooked
    predictions: dict[str, list[dict[str, Any]]]  # system -> records


def read_run(path: Path) -> Run:
    """Reads a run folder. Raises InputError for a folder that holds no part of a run, or for a part that is broken."""
    if not path.is_dir():
        raise InputError(f"run={path} is no folder; give the folder of a run, such as runs/llm2er_eqr.")
    config = _flat(_read(path / "config.yaml", yaml.safe_load))
    run = Run(
        path,
        config=config,
        versions=_read(path / "versions.json", json.loads),
        command=_text(path / "command.txt").strip(),
        metrics=_metrics(path / "metrics.json"),
        curves={stage: read_curves(file) for stage in STAGES if (file := path / stage / "metrics.csv").is_file()},
        finished=[stage for stage in STAGES if (path / stage / "export" / "stage.json").is_file()],
        warnings=warnings_of(path, config),
        predictions={
            name: read_predictions(path / file) for name, file in PREDICTIONS.items() if (path / file).is_file()
        },
    )
    if not (run.config or run.metrics or run.curves or run.predictions):
        raise InputError(f"run={path} holds no part of a run; give the folder that launch/train.py wrote.")
    return run


def warnings_of(path: Path, config: dict[str, Any]) -> list[str]:
    """What the finished stages of a run said that must not be overlooked, each sentence once, by its first stage."""
    said: dict[str, str] = {}
    for stage in STAGES:
        source = Path(config.get(f"{stage}.init_from") or path / stage)
        for sentence in _read(source / "export" / "stage.json", json.loads).get("summary", {}).get("warnings", []):
            if not any(sentence.endswith(earlier) for earlier in said):  # PPO repeats what the reward models said
                said[sentence] = stage
    return [f"{stage}: {sentence}" for sentence, stage in said.items()]


def read_curves(path: Path) -> dict[str, Curve]:
    """The figures of a CSV log by name; where a step was logged twice (a resumed run), the later row counts.

    A figure that was logged by step and by epoch is taken by step.
    """
    logged: dict[str, dict[int, float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames is None:
            return {}
        if "step" not in reader.fieldnames:
            raise InputError(f"{path}:1: no column `step`; give the log that training wrote.")
        for row in reader:
            cells = {name: text for name, text in row.items() if text and isinstance(text, str)}
            try:
                values = {name: float(text) for name, text in cells.items()}
            except ValueError as error:
                raise InputError(f"{path}:{reader.line_num}: {error}; mend or delete the line.") from None
            for name in values.keys() - {"step", "epoch"}:
                logged.setdefault(name, {})[int(values.get("step", 0))] = values[name]
    by_epoch = {name.removesuffix("_epoch"): steps for name, steps in logged.items() if name.endswith("_epoch")}
    by_step = {name.removesuffix("_step"): steps for name, steps in logged.items() if name.endswith("_step")}
    return {name: _curve(steps) for name, steps in (by_epoch | by_step | logged).items()}


def _curve(steps: dict[int, float]) -> Curve:
    points = [(step, value) for step, value in sorted(steps.items()) if math.isfinite(value)]
    return Curve(points, not_finite=len(steps) - len(points))


def _metrics(path: Path) -> dict[str, Any]:
    tree = _read(path, json.loads)
    systems = tree.get("systems", {})
    if tree and not (isinstance(systems, dict) and all(isinstance(scores, dict) for scores in systems.values())):
        raise InputError(f"{path}: `systems` must map each system to its metrics; write the file anew (stage=result).")
    return tree


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); mend or delete it.") from None


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    text = _text(path)
    try:
        tree = parse(text) if text.strip() else {}
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read ({' '.join(str(error).split())}); mend or delete it.") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path} holds no names with values; mend or delete it.")
    return tree


def _flat(tree: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
