"""What one start of a run leaves for the next: whether to start again at all, and whether that would help.

`REQUEUE` in the run folder says that the run was asked to end and wants to be started again: torchrun turns every exit
code into 1, so a batch script looks for this file. `failed.json` says how the last start failed: an error that would
only come again is not tried again and again by `torchrun --max-restarts` or by a requeue.
"""

import json
import logging
import os
from pathlib import Path

from callbacks.durable import write_durably
from callbacks.guards import HarmfulUpdateError
from callbacks.requests import REQUEUE_CODE, START, restarted
from launch.run_lock import InUseError
from metrics.errors import InputError

log = logging.getLogger("llm2er")

# A rank that lost another one says so in these words; the cause is told by the other rank.
ECHOES = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "connectFullMesh failed")


def look_back(run_dir: Path) -> None:
    """At a restart: ends at once if the last start was asked to end, or failed in a way that would come again."""
    requeue, failed = run_dir / "REQUEUE", run_dir / "failed.json"
    if not restarted():
        if int(os.environ.get("RANK", "0")) == 0:
            requeue.unlink(missing_ok=True)
            failed.unlink(missing_ok=True)
        return
    launch = os.environ.get("TORCHELASTIC_RUN_ID", "")
    in_torchrun = int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) > 0
    if in_torchrun and requeue.is_file() and json.loads(requeue.read_text())["launch"] == launch:
        raise SystemExit(REQUEUE_CODE)
    if failed.is_file():
        last = json.loads(failed.read_text())
        # What failed before any stage began may have been a node or a link; SLURM starts a job anew on other nodes.
        elsewhere = last["where"] == START and not in_torchrun
        if last["certain"] or (last["times"] >= 2 and not elsewhere):
            times = "twice" if last["times"] >= 2 else "before"
            raise InputError(
                f"not restarted, as it would fail again: it failed {times} at {last['where']} with {last['error']}; "
                "mend that and run the command again"
            )
    if int(os.environ.get("RANK", "0")) == 0 and not in_torchrun:
        requeue.unlink(missing_ok=True)


def ask_for_requeue(run_dir: Path, why: str) -> None:
    """Leaves `REQUEUE`."""
    launch = os.environ.get("TORCHELASTIC_RUN_ID", "")
    write_durably(run_dir / "REQUEUE", json.dumps({"why": why, "launch": launch}) + "\n")


def remember_failure(run_dir: Path, where: str, error: Exception) -> None:
    """Writes `failed.json`; of ranks that fail together those that only lost the others keep silent.

    A job that found the run folder in use leaves nothing in it: the one that owns it would read that at its restart.
    """
    told = f"{type(error).__name__}: {error}".splitlines()[0][:500]
    echo = any(words in str(error) for words in ECHOES)
    if echo or isinstance(error, InUseError) or not run_dir.is_dir():
        return
    path, times = run_dir / "failed.json", 1
    if path.is_file():
        last = json.loads(path.read_text())
        times += last["times"] if (last["where"], last["error"]) == (where, told) else 0
    certain = isinstance(error, InputError | HarmfulUpdateError)
    try:
        write_durably(path, json.dumps({"where": where, "error": told, "times": times, "certain": certain}) + "\n")
    except OSError as refused:  # a disk that is full may be what went wrong: that is what must be told
        log.warning("%s could not be written (%s): a restart will not know of this failure", path, refused.strerror)
