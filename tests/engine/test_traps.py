"""Faults of the stack that give no error: each test fails when its remedy is taken out."""

import json
from pathlib import Path

import pytest
from running import HERE, TINY, losses_of, torchrun
from test_same_losses import assert_same

LORA = ["explanation.lora.rank=4", "explanation.lora.dropout=0"]


def run_probe(name: str, tmp_path: Path, arguments: list[str], ranks: int = 2) -> dict:
    """What a probe of trap_probes.py printed to its file."""
    tmp_path.mkdir(exist_ok=True)
    out = tmp_path / "probe.json"
    done = torchrun(HERE / "trap_probes.py", [name, str(out), *TINY, *arguments, f"run_dir={tmp_path / 'run'}"], ranks)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.fixture(scope="session")
def base(one_rank: tuple[Path, dict[str, list[float]]]) -> list[str]:
    """Upstream stages for probes."""
    folder, _ = one_rank
    return [f"{stage}.init_from={folder}/{stage}" for stage in ("rating", "explanation", "ccr", "hqar")]


def test_accumulation_under_zero_3_loses_no_gradient(
    one_rank: tuple[Path, dict[str, list[float]]], tmp_path: Path
) -> None:
    # Several backwards a step drop all but the last under ZeRO-3 if they do not go through the engine's forward.
    folder, expected = one_rank
    stages = ("rating", "explanation", "hqar", "ppo")  # CCR's negatives are those of the micro-batch
    accumulate = [f"{stage}.fit.accumulate=2" for stage in stages[:3]] + ["ppo.accumulate=2"]
    micro = losses_of(str(folder), tmp_path, 2, ["zero.stage=3", *accumulate])
    found = {stage: [sum(micro[stage][i : i + 2]) for i in range(0, len(micro[stage]), 2)] for stage in stages}
    assert_same(found, expected, stages)


def test_accumulation_leaves_the_size_of_gradients(base: list[str], tmp_path: Path) -> None:
    # Lightning and DeepSpeed would both divide by the number of micro-batches; Adam hides it, clipping does not.
    upstream = [argument for argument in base if "explanation" not in argument]
    norms = [
        run_probe("gradient_norms", tmp_path / str(n), ["zero.stage=3", f"explanation.fit.accumulate={n}", *upstream])
        for n in (1, 2)
    ]
    assert norms[0]["norms"][:5] == pytest.approx(norms[1]["norms"][:5], rel=1e-3)


def test_ranks_that_stop_at_different_lengths_do_not_wait_for_each_other(base: list[str], tmp_path: Path) -> None:
    found = run_probe("uneven_generation", tmp_path, ["zero.stage=3", *base])
    assert found["lengths"][0] != found["lengths"][1]
    assert found["texts"] == found["texts_unsharded"]


def test_first_update_of_ppo_is_the_policy_that_sampled(base: list[str], tmp_path: Path) -> None:
    found = run_probe("first_update", tmp_path, ["zero.stage=3", "explanation.new_model.dropout=0.3", *base])
    assert found["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert found["approx_kl"] == pytest.approx(0.0, abs=1e-6)
    assert found["clip_fraction"] == 0.0
    assert found["kl"] == pytest.approx(0.0, abs=1e-5)


def test_rollouts_are_on_policy(base: list[str], tmp_path: Path) -> None:
    # Without a length Lightning fetches one batch ahead: a rollout of the policy before its last update.
    found = run_probe("on_policy", tmp_path, ["zero.stage=2", "ppo.iterations=3", "ppo.lr=0.01", *base])
    assert found["iterations"] == [0, 1, 2]
    assert found["ratios"] == pytest.approx([1.0, 1.0, 1.0], abs=1e-5)


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_adapters_start_at_zero_and_are_saved_whole(zero_stage: int, base: list[str], tmp_path: Path) -> None:
    upstream = [argument for argument in base if "rating" in argument]
    found = run_probe("adapters", tmp_path, [f"zero.stage={zero_stage}", *LORA, *upstream])
    assert found["first_loss"] == pytest.approx(found["first_loss_without_adapters"], rel=1e-6)
    assert found["empty_tensors"] == []
    assert found["reloaded_loss"] == pytest.approx(found["trained_loss"], abs=1e-4)


def test_adapter_policy_starts_at_its_reference(base: list[str], tmp_path: Path) -> None:
    upstream = [argument for argument in base if "explanation" not in argument]
    found = run_probe("adapter_ppo", tmp_path, ["zero.stage=3", *LORA, *upstream])
    assert found["kl"] == pytest.approx(0.0, abs=1e-5)
    assert found["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert found["reference_changed"] is False
    assert found["policy_changed"] is True


def test_a_fresh_model_under_zero_3_has_the_loss_of_chance(one_rank: tuple[Path, dict], tmp_path: Path) -> None:
    # Networks built inside zero.Init are initialised on empty tensors: a first loss of about 87 instead of log(V).
    folder, _ = one_rank
    found = run_probe("first_loss", tmp_path, ["zero.stage=3", f"rating.init_from={folder}/rating"])
    assert found["first_loss"] == pytest.approx(found["log_vocabulary"], rel=0.05)


def test_nothing_is_compiled_at_start(base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A compilation that is killed leaves a lock at which every later start hangs.
    extensions = tmp_path / "extensions"
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(extensions))
    run_probe("first_update", tmp_path, ["zero.stage=2", *base])
    assert not extensions.exists() or not list(extensions.rglob("*.so"))


def test_bf16_keeps_log_probabilities_in_float32(base: list[str], tmp_path: Path) -> None:
    found = run_probe("first_update", tmp_path, ["zero.stage=2", "hardware.precision=bf16", *base])
    assert found["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert found["old_log_prob_dtype"] == "torch.float32"
