"""The folder of a run: what was asked, what is finished, and whether the two fit together."""

import json
import logging
import platform
import shlex
import sys
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from callbacks.durable import sync_tree, write_durably
from launch.config import flatten, keys
from launch.llm2er_eqr import LLM2ER_EQR
from launch.run_lock import InUseError, RunLock
from launch.schema import TrainConfig
from lightning_modules.collectives import barrier, gather_objects, world
from metrics.errors import InputError

log = logging.getLogger("llm2er")

PACKAGES = ("torch", "pytorch-lightning", "deepspeed", "torch_geometric", "transformers", "peft", "wandb", "omegaconf")

CHECKSUM = "checksum of the corpus"


class RunFolder:
    """Paths and completeness of the stages of one run."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.path = config, Path(config.run_dir)
        self.corpus = ""  # checksum of the corpus's records, once it is read
        self.lock = RunLock(self.path)
        self.revisions: dict[str, str] = {}  # of base models from the hub, by the stage that reads them
        self.learning: dict[str, str] = {}  # by stage: what of its network learns; an earlier version trained less
        self.versions = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}

    def open(self) -> None:
        """Creates the folder and takes its lock (rank 0); every rank learns if that failed."""
        refused: InputError | None = None
        if world()[0] == 0:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self.lock.acquire(log.warning)
            except InputError as error:
                refused = error
            except OSError as error:
                refused = InputError(f"run_dir={self.path}: cannot be created ({error.strerror}); choose another")
        in_use, told = gather_objects((isinstance(refused, InUseError), str(refused or "")))[0]
        if told:
            raise InUseError(told) if in_use else InputError(told)

    def record(self) -> None:
        """Writes what was asked, by what and with what (rank 0); only once it is known to fit what is finished."""
        if world()[0] == 0:
            tree = flatten(self.config)
            if tree["data.path"]:
                tree["data.path"] = str(Path(tree["data.path"]).resolve())  # readable from any folder
            write_durably(self.path / "config.yaml", yaml.safe_dump(_nested(tree), sort_keys=False))
            write_durably(self.path / "versions.json", json.dumps(self.versions, indent=1) + "\n")
            write_durably(self.path / "command.txt", shlex.join(sys.argv) + "\n")

    def identity(self) -> str:
        """A random word that tells this run folder from all others, made once; the same on every rank."""
        if world()[0] == 0 and not (path := self.path / "identity").is_file():
            write_durably(path, uuid.uuid4().hex + "\n")
        return gather_objects((self.path / "identity").read_text().strip() if world()[0] == 0 else "")[0]

    def stage(self, name: str) -> Path:
        """The folder of a stage."""
        return self.path / name

    def checkpoints(self, name: str) -> Path:
        """The folder of a stage's checkpoints."""
        return self.stage(name) / "checkpoints"

    def export(self, name: str) -> Path:
        """The product of a stage: of this run, or of the one that `<stage>.init_from` names."""
        init_from = getattr(self.config, name).init_from
        return (Path(init_from) if init_from else self.stage(name)) / "export"

    def done(self, name: str) -> bool:
        """Whether a stage's product is complete.

        Raises `InputError` if it was made by another config (the changed keys are named), or if `init_from` names a
        folder that holds none.
        """
        init_from = getattr(self.config, name).init_from
        marker = self.export(name) / "stage.json"
        if init_from:
            if not marker.is_file():
                raise InputError(f"{name}.init_from={init_from}: no finished {name} stage there (no export/stage.json)")
            if json.loads(marker.read_text())["config"][CHECKSUM] != self.corpus:
                raise InputError(f"{name}.init_from={init_from}: was trained on another corpus; give its data.path")
            return True
        if not marker.is_file():
            return False
        changes = changed_keys(json.loads(marker.read_text())["config"], self._relevant(name))
        if changes:
            raise InputError(
                f"{self.stage(name)} was made by another config: {', '.join(changes.values())}; choose another "
                f"run_dir, restore the values, or delete {self.stage(name)} to train it anew"
            )
        return True

    def need(self, name: str, stage: str) -> Path:
        """The product of `name`, which `stage` reads."""
        if not self.done(name):
            raise InputError(f"stage={stage} reads {self.export(name)}, which is not there; run stage={name} first")
        return self.export(name)

    def marker(self, name: str) -> dict[str, Any]:
        """What a finished stage says of itself: its summary and the config that it was made by."""
        return json.loads((self.export(name) / "stage.json").read_text(encoding="utf-8"))

    def finish(self, name: str, summary: dict[str, Any]) -> None:
        """Marks a stage's product as complete (rank 0), after all ranks have written."""
        barrier()
        if world()[0] == 0:
            marker = {"stage": name, "summary": summary, "config": self._relevant(name)}
            marker |= {"revision": self.revisions[name]} if name in self.revisions else {}
            self.export(name).mkdir(parents=True, exist_ok=True)
            sync_tree(self.export(name))  # the marker must not reach the disk before what it vouches for
            write_durably(self.export(name) / "stage.json", json.dumps(marker, indent=1) + "\n")
        barrier()

    def state_config(self, name: str) -> dict[str, Any]:
        """What a checkpoint of a stage depends on: as its product does, how it is sharded, and its base model.

        Frozen weights are not in checkpoints: where the hub's have changed since, the state would fit them no more.
        """
        config = self.config
        base = {f"revision of {name}.model": self.revisions[name]} if name in self.revisions else {}
        base |= {f"what learns in {name}": self.learning[name]} if name in self.learning else {}
        sharding = {"zero.stage": config.zero.stage, "hardware.precision": config.hardware.precision}
        return self._relevant(name) | sharding | base

    def note_revision(self, name: str, revision: str | None) -> None:
        """Remembers which commit of the hub the base model of a stage is."""
        if revision:
            self.revisions[name] = revision

    def _relevant(self, name: str) -> dict[str, Any]:
        prefixes = LLM2ER_EQR.depends(name)
        chosen = {key: value for key, value in flatten(self.config).items() if key.startswith(prefixes)}
        chosen.pop("data.path")  # a corpus may be moved; its checksum says whether it is the same
        chosen.pop("data.workers")
        return chosen | {CHECKSUM: self.corpus}


def changed_keys(before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """Keys whose values differ between a finished stage (or checkpoint) and this run -> "key (was 1, is 2)", sorted.

    A key that `before` lacks counts as its default: it was made before the key existed, by what is now the default.
    Without this rule each new key would make every finished stage of every user stale.
    """
    defaults = {key.name: key.default for key in keys(TrainConfig)}
    old = {key: before.get(key, defaults.get(key)) for key in before.keys() | now.keys()}
    return {key: f"{key} (was {old[key]!r}, is {now.get(key)!r})" for key in sorted(old) if old[key] != now.get(key)}


def _nested(flat: dict[str, Any]) -> dict:
    tree: dict = {}
    for key, value in flat.items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree
