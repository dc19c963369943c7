"""Takes each remedy for a silent fault of the stack out, one at a time, and shows that a test fails without it.

    python tests/engine/take_out_remedies.py [NAME ...]

Works on a copy of the repository; about a minute a remedy. Prints a line for each and exits with 1 if a test passed
although its remedy was gone. Not part of the default tests: it tests the tests.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRAPS = "tests/engine/test_traps.py::"

# name -> (file, text of the remedy, what stands there without it, the test that must fail)
REMEDIES: dict[str, tuple[str, str, str, str]] = {
    "the ranks' orders of gradients are compared": (
        "launch/run.py",
        "            callbacks = [SameGradientOrder(), *callbacks]",
        "            pass\n",
        TRAPS + "test_gradients_in_another_order_end_the_run_on_every_rank",
    ),
    "no division of the loss twice": (
        "launch/engine.py",
        "scale_wrt_gas=False, ",
        "",
        TRAPS + "test_accumulation_leaves_the_size_of_gradients",
    ),
    "batches stay float32 under bf16": (
        "launch/engine.py",
        "        return data\n",
        "        return super().convert_input(data)\n",
        TRAPS + "test_bf16_keeps_log_probabilities_in_float32",
    ),
    "no compilation at start": (
        "launch/engine.py",
        '["deepspeed_shm_comm"] = False',
        '["deepspeed_shm_comm"] = True',
        TRAPS + "test_nothing_is_compiled_at_start",
    ),
    "DeepSpeed's process groups wait as long as ours": (
        "launch/engine.py",
        "        wait_at_most(self._timeout)\n",
        "",
        TRAPS + "test_every_process_group_waits_as_long_as_it_is_told_to",
    ),
    "whole weights and no hooks in a rollout": (
        "lightning_modules/collectives.py",
        "    if not parameters:\n        yield\n        return\n    offload",
        "    if True:\n        yield\n        return\n    offload",
        TRAPS + "test_ranks_that_stop_at_different_lengths_do_not_wait_for_each_other",
    ),
    "weights are gathered before they are saved": (
        "lightning_modules/collectives.py",
        '    sharded = [p for p in parameters if hasattr(p, "ds_id")]\n    if not sharded:',
        '    sharded = [p for p in parameters if hasattr(p, "ds_id")]\n    if True:',
        TRAPS + "test_adapters_start_at_zero_and_are_saved_whole",
    ),
    "sharded parameters count as whole": (
        "lightning_modules/collectives.py",
        '(getattr(p, "ds_numel", p.numel()), p.requires_grad)',
        "(p.numel(), p.requires_grad)",
        TRAPS + "test_parameters_that_are_sharded_away_are_counted",
    ),
    "networks are built before they are sharded": (
        "launch/stages.py",
        "    explainer = new_explainer(name, evidence.users_FND.shape[-1], config.explanation.lora)\n    run",
        "    import deepspeed\n\n    with deepspeed.zero.Init(enabled=config.zero.stage == 3):\n"
        "        explainer = new_explainer(name, evidence.users_FND.shape[-1], config.explanation.lora)\n    run",
        TRAPS + "test_a_fresh_model_under_zero_3_has_the_loss_of_chance",
    ),
    "dropout stays off in PPO": (
        "lightning_modules/ppo/module.py",
        "                part.eval()\n",
        "                part.train(mode)\n",
        TRAPS + "test_first_update_of_ppo_is_the_policy_that_sampled",
    ),
    "a rollout stream has a length": (
        "lightning_modules/ppo/rollout.py",
        "    def __len__(self) -> int:\n        return self.length",
        "    def length_without_a_name(self) -> int:\n        return self.length",
        TRAPS + "test_the_schedule_of_ppo_spans_all_its_steps",
    ),
    "no rollout is sampled to find the batch size": (
        "launch/engine.py",
        "        logging_batch_size_per_gpu=1,\n",
        "",
        TRAPS + "test_rollouts_are_on_policy",
    ),
    "the reference is an adapter of its own": (
        "lightning_modules/ppo/reference.py",
        '        layer._active_adapter = ["reference"]',
        "        layer._disable_adapters = True",
        TRAPS + "test_adapter_policy_starts_at_its_reference",
    ),
    "positions start behind left padding": (
        "models/next_state.py",
        "    return (mask_RS.cumsum(-1) - 1).clamp(min=0)",
        "    return torch.arange(mask_RS.shape[1], device=mask_RS.device).expand_as(mask_RS)",
        "tests/models/test_generation.py",
    ),
}


def fails_without(name: str) -> bool:
    """Whether the named test fails on a copy of the repository that lacks the remedy."""
    file, remedy, nothing, test = REMEDIES[name]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "runs", "data", "__pycache__", "*.egg-info"))
        source = (copy / file).read_text()
        if source.count(remedy) != 1:
            sys.exit(f"{name}: {file} holds its remedy {source.count(remedy)} times, not once; mend this script")
        (copy / file).write_text(source.replace(remedy, nothing))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-m", "", "-p", "no:cacheprovider", test],
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode not in (0, 1):  # pytest's codes for passed and failed
        sys.exit(f"{name}: pytest could not run {test}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 1


def main() -> None:
    names = sys.argv[1:] or list(REMEDIES)
    unneeded = []
    for name in names:
        failed = fails_without(name)
        print(f"{'fails, as it must' if failed else 'PASSES WITHOUT IT'}  {name}", flush=True)
        if not failed:
            unneeded.append(name)
    sys.exit(1 if unneeded else 0)


if __name__ == "__main__":
    main()
