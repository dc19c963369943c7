"""What nobody must be able to do with a file, a config or a review. The rest stands where the thing itself is tested:
what the sources may not call in test_architecture.py, pickles of data sets in test_public_formats.py, code and
revisions of models in test_language_model.py, special tokens in reviews in test_prompts.py, HTML in test_report.py,
secrets and user ids in a whole run folder, W&B's included, in test_end_to_end.py, and what is installed in
test_supply_chain.py.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from callbacks.checkpoint_folder import Manifest, RejectedError, digest, distrust, inspect
from launch.config import keys, load
from launch.schema import TrainConfig
from launch.shards import DurableShards
from metrics.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("callbacks", "datamodules", "launch", "lightning_modules", "metrics", "models")


class Poison:
    """Pickled, it makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_a_poisoned_shard_runs_nothing(tmp_path: Path) -> None:
    torch.save({"module": {}, "client": Poison(tmp_path / "pwned")}, tmp_path / "shard.pt")
    with pytest.raises(InputError, match="holds objects that no checkpoint of ours has; it was not read"):
        DurableShards().load(str(tmp_path / "shard.pt"))
    assert not (tmp_path / "pwned").exists()
    torch.load(tmp_path / "shard.pt", weights_only=False)  # the poison works: DeepSpeed's own reader would run it
    assert (tmp_path / "pwned").exists()


def test_no_config_names_code() -> None:
    assert {key.type for key in keys(TrainConfig)} <= {int, float, bool, str}
    for path in (ROOT / "configs").rglob("*.yaml"):
        text = path.read_text()
        assert not re.search(r"_target_|class_path|!!python|\$\{", text), path
        assert isinstance(yaml.safe_load(text), dict)


def test_no_shipped_config_or_script_trusts_remote_code() -> None:
    files = [*(ROOT / "configs").rglob("*.yaml"), *(ROOT / "launch" / "slurm").iterdir()]
    assert [path for path in files if "trust_remote_code" in path.read_text()] == []


@pytest.mark.parametrize("value", ["${oc.env:WANDB_API_KEY}", "${seed}", "a ${oc.decode:x}"])
def test_a_config_cannot_read_the_environment(value: str) -> None:
    with pytest.raises(InputError, match="holds an interpolation"):
        load(TrainConfig, [f"wandb_project={value}"])


def test_a_secret_on_the_command_line_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    command = [sys.executable, "launch/train.py", "wandb_api_key=canary-77", f"run_dir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown key `wandb_api_key`" in done.stderr
    assert "canary-77" not in done.stdout + done.stderr
    assert not (tmp_path / "run").exists()


def calls() -> list[tuple[Path, str]]:
    found = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found += [(path, ast.unparse(node)) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return found


@pytest.mark.parametrize(
    "value", ["hf_" + "a1" * 17, "0123456789abcdef" * 2 + "01234567", "https://me:canary-77@host/model"]
)
def test_a_secret_in_a_value_is_refused_and_not_repeated(tmp_path: Path, value: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"explanation:\n  model: '{value}'\n")
    for source in (f"explanation.model={value}", str(tmp_path / "mine.yaml")):
        with pytest.raises(InputError, match="holds what looks like a key or token") as error:
            load(TrainConfig, [source])
        assert value not in str(error.value)
    commit = "org/tiny@" + "0123456789" * 4
    assert load(TrainConfig, [f"explanation.model={commit}"])[0].explanation.model == commit


def test_a_checkpoint_of_another_user_is_not_trusted_silently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: tmp_path.stat().st_uid + 1)
    monkeypatch.setattr(Path, "stat", lambda path: SimpleNamespace(st_mode=0o40755, st_uid=77))
    assert distrust(Path("step-000010")) == "step-000010 belongs to user id 77, not to you"


def test_a_manifest_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("x")
    folder = tmp_path / "step-000010"
    folder.mkdir()
    for name in ("../outside", str(tmp_path / "outside")):
        Manifest("rating", 10, 0, 0, 1, {}, {}, {name: digest(tmp_path / "outside")}).write(folder)
        with pytest.raises(RejectedError, match=f"{re.escape(name)} is missing"):
            inspect(folder)


def test_no_archive_is_extracted_and_no_name_of_the_data_becomes_a_path() -> None:
    # Whether a file is an archive may be asked; none may be opened.
    asked = re.compile(r"zipfile\.is_zipfile\(|tarfile\.TarInfo\.frombuf\(|tarfile\.BLOCKSIZE")
    archives = re.compile(r"tarfile|zipfile|ZipFile|TarFile|unpack_archive|extractall")
    names = re.compile(r"\.(users|items|concepts)\[")
    paths = re.compile(r"^(open|Path)\(|\.(open|mkdir|write_text|write_bytes)\(")
    for path, text in calls():
        assert not archives.search(asked.sub("", text)), path
        assert not (paths.search(text) and names.search(text)), path


def test_the_environment_is_never_printed_or_handed_on_whole() -> None:
    bad = re.compile(r"(print|log\.\w+|write\w*|dump\w*)\(.*(os\.environ\)|dict\(os\.environ|locals\(\)|globals\(\))")
    assert [(path.name, text) for path, text in calls() if bad.search(text)] == []
    script = (ROOT / "launch" / "slurm" / "train.sbatch").read_text()
    assert not re.search(r"^\s*(env|printenv|export -p|set -x|set)\s*$", script, re.MULTILINE)


def test_nothing_listens() -> None:
    servers = re.compile(r"http\.server|socketserver|\.listen\(\d|\.bind\(|uvicorn|gradio|flask", re.IGNORECASE)
    assert [(path.name, text) for path, text in calls() if servers.search(text)] == []
