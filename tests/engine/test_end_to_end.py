"""The commands a user types, on two ranks: train, resume, one stage alone, explain, evaluate, W&B offline."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from running import TINY, torchrun, wandb_records

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "launch" / "train.py"
CANARY = "canary-5f2c9a"


def command(script: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, str(ROOT / "launch" / script), *arguments],
        cwd=cwd or ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A tiny run of everything with W&B offline and a secret in the environment: (folder, what was printed)."""
    folder = tmp_path_factory.mktemp("run") / "mine"
    os.environ["WANDB_API_KEY"] = CANARY
    try:
        done = torchrun(TRAIN, [*TINY, f"run_dir={folder}", "logger=wandb"], ranks=2)
    finally:
        del os.environ["WANDB_API_KEY"]
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout + done.stderr


def test_a_run_leaves_what_the_design_promises(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    expected = ["config.yaml", "versions.json", "command.txt", "predictions.jsonl", "metrics.json", "report.html"]
    assert [name for name in expected if not (folder / name).is_file()] == []
    for stage in ("rating", "explanation", "ccr", "hqar", "ppo"):
        assert (folder / stage / "export" / "stage.json").is_file()
        product = folder / stage / "export"
        assert not [p for p in product.rglob("*") if p.suffix in (".pkl", ".pickle", ".pt", ".bin", ".ckpt")]


def test_every_test_record_is_explained_once(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    records = [json.loads(line)["record"] for line in (folder / "predictions.jsonl").read_text().splitlines()]
    manifest = json.loads((folder / "data" / "manifest.json").read_text())
    assert len(records) == len(set(records)) == manifest["counts"]["records"]["test"]


def test_the_console_names_stage_ranks_parameters_and_files(finished: tuple[Path, str]) -> None:
    _, printed = finished
    for words in ("rating: training", "parameters on 2 ranks", "ccr: done in", "wrote", "LLM2ER-EQR", "cmr"):
        assert words in printed
    assert printed.count("; run folder ") == 1  # rank 0 alone speaks


def test_a_finished_run_is_skipped_and_judged_again_to_the_same_bytes(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    before = (folder / "predictions.jsonl").read_bytes()
    done = torchrun(TRAIN, [*TINY, f"run_dir={folder}", "logger=wandb"], ranks=2)
    assert done.returncode == 0
    assert done.stderr.count("already finished") == 5
    assert (folder / "predictions.jsonl").read_bytes() == before


@pytest.mark.long
def test_the_same_run_twice_gives_the_same_bytes(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    done = torchrun(TRAIN, [*TINY, f"run_dir={tmp_path / 'again'}", "logger=none"], ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "again" / "predictions.jsonl").read_bytes() == (folder / "predictions.jsonl").read_bytes()


def test_a_run_can_take_every_stage_from_another(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    stages = [f"{stage}.init_from={folder}/{stage}" for stage in ("rating", "explanation", "ccr", "hqar", "ppo")]
    where = [f"data.path={folder / 'data'}", f"run_dir={tmp_path / 'other'}", "logger=none"]
    done = torchrun(TRAIN, [*TINY, *stages, *where], ranks=1)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "other" / "predictions.jsonl").read_bytes() == (folder / "predictions.jsonl").read_bytes()


def test_a_changed_config_is_refused_by_key(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    done = torchrun(TRAIN, [*TINY, f"run_dir={folder}", "ccr.temperature=0.1", "stage=ccr"], ranks=1)
    assert done.returncode != 0
    assert "ccr.temperature (was 0.05, is 0.1)" in done.stderr
    assert "Traceback" not in done.stderr.split("error:")[0]


def test_a_mistake_is_what_is_seen_last_under_torchrun(tmp_path: Path) -> None:
    done = torchrun(TRAIN, [*TINY, f"run_dir={tmp_path}", "rating.fit.bach=3"], ranks=2)
    assert done.returncode == 1  # torchrun's, whatever the ranks' status is
    last = [line for line in done.stderr.splitlines() if line.strip("= ")][-1]
    assert last.endswith("error: command line: unknown key `rating.fit.bach`; did you mean `rating.fit.batch_size`?")


def test_a_stage_without_its_input_says_what_to_run(tmp_path: Path) -> None:
    done = command("train.py", *TINY, f"run_dir={tmp_path / 'empty'}", "stage=ppo")
    assert done.returncode == 2
    assert "run stage=explanation first" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_batch_that_does_not_divide_is_named(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    arguments = [a for a in TINY if not a.startswith("rating.fit.batch_size")]
    where = [f"data.path={folder / 'data'}", f"run_dir={tmp_path / 'odd'}", "stage=rating", "rating.fit.batch_size=33"]
    done = torchrun(TRAIN, [*arguments, *where], ranks=2)
    assert done.returncode != 0
    assert "rating.fit.batch_size=33 cannot be split evenly over 2 ranks" in done.stderr


def test_more_candidates_than_concepts_is_named(tmp_path: Path) -> None:
    done = command("train.py", *TINY, f"run_dir={tmp_path / 'many'}", "stage=rating", "graph.candidates=99")
    assert done.returncode == 2
    assert "graph.candidates=99 is more than the" in done.stderr


def test_explain_prints_text_rating_and_paths(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    wanted = json.loads((folder / "predictions.jsonl").read_text().splitlines()[0])
    pair = [f"run={folder}", f"user={wanted['user']}", f"item={wanted['item']}"]
    told = command("explain.py", *pair, cwd=tmp_path)
    assert told.returncode == 0, told.stderr[-2000:]
    assert wanted["concepts"][0]["concept"] in told.stdout
    row = json.loads(command("explain.py", *pair, "json=true", cwd=tmp_path).stdout)
    assert row["explanation"] == wanted["explanation"]
    assert row["concepts"] == wanted["concepts"]
    assert row["predicted_rating"] == pytest.approx(wanted["predicted_rating"], abs=1e-4)


def test_explain_serves_a_newcomer_through_concepts_and_says_so(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    pair = [f"run={folder}", "user=nobody", "item=hotel-00001"]
    row = json.loads(command("explain.py", *pair, "user_concepts=breakfast", "json=true").stdout)
    assert row["cold"] == {"user": ["breakfast"]}
    assert 1 <= row["predicted_rating"] <= 5
    done = command("explain.py", *pair, "user_concepts=breakfest")
    assert done.returncode == 2
    assert "'breakfest' is no concept of" in done.stderr
    assert "near are breakfast" in done.stderr


def test_evaluate_prints_one_flat_object(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    done = command("evaluate.py", f"predictions={folder / 'predictions.jsonl'}", "json=true", "resamples=20")
    scores = json.loads(done.stdout)
    stored = json.loads((folder / "metrics.json").read_text())["systems"]["LLM2ER-EQR"]
    for key in ("bleu_1", "bleu_4", "rouge_l_f", "cmr", "rmse", "distinct_2", "usr"):
        assert scores.get(key) == stored.get(key)


def test_dry_run_prints_a_plan_and_trains_nothing(tmp_path: Path) -> None:
    done = command("train.py", *TINY, f"run_dir={tmp_path / 'plan'}", "dry_run=true", "zero.stage=3")
    assert done.returncode == 0
    assert {"rating", "explanation", "ccr", "hqar", "ppo"} <= {line.split()[0] for line in done.stdout.splitlines()}
    assert not (tmp_path / "plan").exists()


def test_wandb_offline_holds_every_stage_and_no_secret(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    logged: set[str] = set()
    for path in (folder / "wandb").rglob("*.wandb"):
        for record in wandb_records(path):
            if record.WhichOneof("record_type") == "history":
                logged |= {item.key or "/".join(item.nested_key) for item in record.history.item}
    for name in ("rating/valid/rmse", "explanation/valid/loss", "ccr/valid/loss", "hqar/valid/loss", "ppo/kl"):
        assert name in logged
    assert any(name.startswith("samples") for name in logged)
    for path in folder.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path


def test_no_user_is_named_in_what_goes_to_wandb(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    sent = b"".join(path.read_bytes() for path in (folder / "wandb").rglob("*") if path.is_file())
    assert re.search(rb"hotel-\d{5}", sent)  # the tables of samples are there
    assert not re.search(rb"guest-\d{5}", sent)
