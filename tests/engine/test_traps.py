"""Faults of the stack that give no error: each test fails when its remedy is taken out (see take_out_remedies.py)."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from running import HERE, TINY, losses_of, torchrun
from test_same_losses import assert_same

LORA = ["explanation.lora.rank=4", "explanation.lora.dropout=0"]

# name -> (probe of trap_probes.py, stages taken from the one-rank run, config)
JOBS: dict[str, tuple[str, tuple[str, ...], list[str]]] = {
    "norms_1": ("gradient_norms", ("rating",), ["zero.stage=3"]),
    "norms_2": ("gradient_norms", ("rating",), ["zero.stage=3", "explanation.fit.accumulate=2"]),
    "uneven": ("uneven_generation", ("rating", "explanation"), ["zero.stage=3"]),
    "first_update": ("first_update", ("rating", "explanation", "ccr", "hqar"), ["zero.stage=3"]),
    "bf16": ("first_update", ("rating", "explanation", "ccr", "hqar"), ["zero.stage=2", "hardware.precision=bf16"]),
    "on_policy": (
        "on_policy",
        ("rating", "explanation", "ccr", "hqar"),
        ["zero.stage=2", "ppo.iterations=3", "ppo.lr=0.01"],
    ),
    "adapters_2": ("adapters", ("rating",), ["zero.stage=2", *LORA]),
    "adapters_3": ("adapters", ("rating",), ["zero.stage=3", *LORA]),
    "adapter_ppo": ("adapter_ppo", ("rating", "ccr", "hqar"), ["zero.stage=3", "ppo.discriminator_lr=0.001", *LORA]),
    "first_loss": ("first_loss", ("rating",), ["zero.stage=3"]),
    "unlike_order_0": ("unlike_order", ("rating",), ["zero.stage=0"]),
    "unlike_order_2": ("unlike_order", ("rating",), ["zero.stage=2"]),
}


@pytest.fixture(scope="session")
def probed(one_rank: tuple[Path, dict], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict]:
    """Runs all probes on two ranks of one process group; returns a function from a job's name to what it found."""
    base, folder = one_rank[0], tmp_path_factory.mktemp("probes")
    jobs = []
    for name, (probe, upstream, config) in JOBS.items():
        given = [f"{stage}.init_from={base}/{stage}" for stage in upstream]
        arguments = [*TINY, *config, *given, f"run_dir={folder / name}"]
        jobs.append({"probe": probe, "out": str(folder / f"{name}.json"), "arguments": arguments})
    (folder / "jobs.json").write_text(json.dumps(jobs))
    extensions = folder / "extensions"
    done = torchrun(
        HERE / "trap_probes.py", [str(folder / "jobs.json")], 2, environment={"TORCH_EXTENSIONS_DIR": str(extensions)}
    )

    def found(name: str) -> dict:
        if name == "compiled":
            return {"libraries": [str(path) for path in extensions.rglob("*.so")], "status": done.returncode}
        out = folder / f"{name}.json"
        assert out.is_file(), done.stderr[-3000:]
        return json.loads(out.read_text())

    return found


@pytest.mark.long
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


def test_accumulation_leaves_the_size_of_gradients(probed: Callable[[str], dict]) -> None:
    # Lightning and DeepSpeed would both divide by the number of micro-batches; Adam hides it, clipping does not.
    one, two = probed("norms_1")["norms"], probed("norms_2")["norms"]
    assert one[:5] == pytest.approx(two[:5], rel=1e-3)


def test_gradients_in_another_order_end_the_run_on_every_rank(probed: Callable[[str], dict]) -> None:
    # ZeRO 1 and 2 add the ranks' gradients up as they come, without a look at whose they are.
    one, other = probed("unlike_order_2")["told"]
    last = r"encoder\.model\.encoder\.layer\.1\.output\.dense"
    assert one == other
    assert re.match(rf"at step 0 rank 1 has the gradient of {last}\.weight where rank 0 has that of {last}\.bias:", one)
    assert "Nothing was updated. Use zero.stage=0" in one


def test_without_sharding_gradients_are_added_up_by_name(
    one_rank: tuple[Path, dict[str, list[float]]], probed: Callable[[str], dict]
) -> None:
    found, expected = probed("unlike_order_0"), one_rank[1]["ccr"]
    assert found["told"] == ["", ""]
    assert len(found["losses"]) > 10
    assert found["losses"] == pytest.approx(expected[: len(found["losses"])], abs=1e-4)


def test_ranks_that_stop_at_different_lengths_do_not_wait_for_each_other(probed: Callable[[str], dict]) -> None:
    found = probed("uneven")
    assert found["lengths"][0] != found["lengths"][1]
    assert found["texts"] == found["texts_unsharded"]


def test_first_update_of_ppo_is_the_policy_that_sampled(probed: Callable[[str], dict]) -> None:
    found = probed("first_update")
    assert found["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert found["approx_kl"] == pytest.approx(0.0, abs=1e-6)
    assert found["clip_fraction"] == 0.0
    assert found["kl"] == pytest.approx(0.0, abs=1e-5)


def test_rollouts_are_on_policy(probed: Callable[[str], dict]) -> None:
    # Lightning builds the training loader once more during set-up to find the batch size: a rollout nobody uses.
    found = probed("on_policy")
    assert found["iterations"] == [0, 1, 2]
    assert found["ratios"] == pytest.approx([1.0, 1.0, 1.0], abs=1e-5)


def test_the_schedule_of_ppo_spans_all_its_steps(probed: Callable[[str], dict]) -> None:
    # A stream without a length gives Lightning no number of steps: the rate would fall to a tenth at once.
    rates = probed("on_policy")["rates"]
    assert len(rates) == 3 * 2 * (32 // 16)  # iterations, epochs, mini-batches
    assert rates[1] == pytest.approx(0.01)
    assert rates[6] == pytest.approx((rates[1] + rates[11]) / 2, rel=1e-6)


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_adapters_start_at_zero_and_are_saved_whole(zero_stage: int, probed: Callable[[str], dict]) -> None:
    found = probed(f"adapters_{zero_stage}")
    assert found["first_loss"] == pytest.approx(found["first_loss_without_adapters"], rel=1e-6)
    assert found["empty_tensors"] == []
    assert found["reloaded_loss"] == pytest.approx(found["trained_loss"], abs=1e-4)


def test_adapter_policy_starts_at_its_reference(probed: Callable[[str], dict]) -> None:
    found = probed("adapter_ppo")
    assert found["kl"] == pytest.approx(0.0, abs=1e-5)
    assert found["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert found["reference_changed"] is False
    assert found["policy_changed"] is True


def test_what_is_frozen_in_ppo_stays_as_it_is_and_has_no_optimizer_state(probed: Callable[[str], dict]) -> None:
    # After several updates of policy and discriminator, with adapters under ZeRO-3.
    found = probed("adapter_ppo")["frozen"]
    assert all(found["trained"])
    assert any(found["hqar"])
    for name in ("policy and reference", "ccr", "held-out hqar"):
        assert found[name]
        assert not any(found[name]), name
    assert found["trainable"] <= found["held"] < 1.1 * found["trainable"]  # whole numbers of parameters a rank


def test_a_fresh_model_under_zero_3_has_the_loss_of_chance(probed: Callable[[str], dict]) -> None:
    # Networks built inside zero.Init are initialised on empty tensors: a first loss of about 87 instead of log(V).
    found = probed("first_loss")
    assert found["first_loss"] == pytest.approx(found["log_vocabulary"], rel=0.05)


def test_parameters_that_are_sharded_away_are_counted(probed: Callable[[str], dict]) -> None:
    # A partitioned parameter has no elements of its own.
    found = probed("first_loss")
    assert found["counted"] == [found["whole"], found["whole"]]


def test_every_process_group_waits_as_long_as_it_is_told_to(probed: Callable[[str], dict]) -> None:
    # DeepSpeed makes groups of its own, which have torch's default: under NCCL they would give up after 10 minutes.
    waits = probed("first_loss")["waits"]
    assert len(waits) >= 2
    assert set(waits) == {1860.0}  # a minute more than the watchdog's hardware.hang_timeout


def test_nothing_is_compiled_at_start(probed: Callable[[str], dict]) -> None:
    # A compilation that is killed leaves a lock at which every later start hangs.
    assert probed("compiled") == {"libraries": [], "status": 0}


def test_bf16_keeps_log_probabilities_in_float32(probed: Callable[[str], dict]) -> None:
    found = probed("bf16")
    assert found["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert found["old_log_prob_dtype"] == "torch.float32"
