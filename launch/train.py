"""Train LLM2ER-EQR: rating, explanation, reward models and PPO, sharded over the ranks that torchrun starts.

    torchrun --nproc-per-node=2 launch/train.py configs/llm2er_eqr.yaml configs/hardware/cpu.yaml run_dir=runs/mine

Run again, it skips the stages that are finished. `stage=ppo` runs one stage alone, from what the run folder holds.
"""

import signal

from launch.launcher import end_with_launcher

EARLY: list[int] = []  # signals that came while the libraries were imported, which takes seconds
if __name__ == "__main__":
    end_with_launcher()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: EARLY.append(number))

import logging
import os
import sys
import time
import warnings
from pathlib import Path

import transformers

from callbacks.freed_memory import give_back_freed_memory
from callbacks.guards import HarmfulUpdateError
from callbacks.requests import REQUEUE_CODE, Interrupted, LockLostError, Requests, restarts
from launch.attempts import ask_for_requeue, look_back, remember_failure
from launch.config import command, tell_torchrun
from launch.schema import STAGES, TrainConfig
from lightning_modules.collectives import part, world

log = logging.getLogger("llm2er")


def main(config: TrainConfig) -> None:
    """Runs the stages that are asked for and not yet finished."""
    first = int(os.environ.get("RANK", "0")) == 0
    quiet(first)
    if config.dry_run:
        from launch.plan import describe_plan

        if first:
            print(describe_plan(config))
        return
    if config.convert:
        from launch.convert import convert

        print(convert(Path(config.convert), config.world_size, Path(config.out)))
        return
    run_dir = Path(config.run_dir)
    look_back(run_dir)
    requests = Requests(run_dir)
    requests.listen()
    requests.signal = requests.signal or max(EARLY, default=0)
    try:
        run_all(config, requests)
    except Interrupted as interrupted:  # on all ranks, by agreement
        log.info("%s", interrupted)
        if interrupted.requeue and first:
            ask_for_requeue(run_dir, str(interrupted))
        part()
        if interrupted.requeue:
            raise SystemExit(REQUEUE_CODE) from interrupted
    except LockLostError as lost:  # the folder is another's: not a word is left in it
        log.error("%s", lost)
        tell_torchrun(f"error: {lost}")
        raise SystemExit(1) from lost
    except HarmfulUpdateError as error:
        remember_failure(run_dir, requests.place, error)
        log.error("%s", error)
        tell_torchrun(f"error: {error}")
        raise SystemExit(1) from error
    except Exception as error:
        remember_failure(run_dir, requests.place, error)
        tell_torchrun(f"{type(error).__name__}: {error}")
        raise


def run_all(config: TrainConfig, requests: Requests) -> None:
    """Opens the run folder, runs the stages, and lets it go."""
    from launch.engine import start

    start(config.hardware)
    from launch.run import Run

    run = Run(config, requests)
    if world()[0] == 0:
        run.folder.lock.beat(requests.replaced)
    try:
        run_stages(run)
    finally:
        run.folder.lock.release()
    part()


def run_stages(run) -> None:  # noqa: ANN001 - Run is imported late: its imports take seconds
    """The stages in their order, then the result."""
    from launch.plan import check_batches, check_corpus
    from launch.preflight import check_models, what_is_cut, what_is_hidden
    from launch.resume import refuse_what_is_not_due
    from launch.stages import TRAINED

    config = run.config
    check_batches(config, world()[1])
    run.stop_if_asked("nothing is begun")
    say_what_is_read(run)
    finished = {name for name in TRAINED if run.folder.done(name)}  # a stale stage is told before anything is done
    asked_for = STAGES if config.stage == "all" else (config.stage,)
    due = [name for name in asked_for if name not in finished]
    check_corpus(config, run.corpus, due, world()[1])
    check_models(config, due)
    if world()[0] == 0:
        hidden = what_is_hidden(config, len(run.corpus.rows("train")), world()[1]) if "rating" in due else []
        cut = what_is_cut(config, run.corpus) if "explanation" in due else []
        for sentence in (*hidden, *cut):
            log.warning("%s", sentence)
    refuse_what_is_not_due(run.folder, due)
    run.folder.record()
    for name, train in TRAINED.items():
        if name not in asked_for:
            continue
        if name in finished:
            log.info("%s: already finished in %s, skipped", name, run.folder.export(name))
            continue
        began = time.monotonic()
        summary = train(run)
        run.stop_if_taken()
        run.folder.finish(name, summary)
        shown = ", ".join(f"{key} {value:.4g}" for key, value in summary.items() if isinstance(value, int | float))
        log.info(
            "%s: done in %.0f s%s, wrote %s",
            name,
            time.monotonic() - began,
            shown and f" ({shown})",
            run.folder.export(name),
        )
        give_back_freed_memory()  # what this stage has freed is of no use to the next
        run.stop_if_asked(f"{name} is finished")
    if "result" in asked_for:
        from launch.result import result

        result(run)
    if world()[0] == 0:
        run.requests.forget_files()


def say_what_is_read(run) -> None:  # noqa: ANN001 - Run is imported late: its imports take seconds
    """One line on the corpus, and at which start of the job it is read."""
    corpus = run.corpus
    counts = ", ".join(f"{len(corpus.rows(split))} {split}" for split in ("train", "valid", "test"))
    log.info(
        "corpus %s: %s records, %d users, %d items, %d concepts; run folder %s%s",
        *(corpus.path, counts, len(corpus.users), len(corpus.items), len(corpus.concepts), run.folder.path),
        "".join(f", restart {count} by {who}" for who, count in restarts().items()),
    )


def quiet(first: bool) -> None:
    """Our own lines on rank 0; of the libraries only what warns, and that once."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO if first else logging.ERROR)
    for name in ("pytorch_lightning", "DeepSpeed", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric|torch|deepspeed|transformers|peft")
    transformers.utils.logging.disable_progress_bar()


if __name__ == "__main__":
    command(main, TrainConfig, __doc__)
