"""One job a run folder: a lock that names its owner, shows that he lives, and tells him when he has been replaced.

After a network cut the old ranks may still run while SLURM has started the job elsewhere. So a lock is not enough: the
old copy must notice that it lost it. Its token is read again before every write that matters.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from callbacks.durable import write_durably
from metrics.errors import InputError

log = logging.getLogger("llm2er")

BEAT = 5.0  # seconds between signs of life
SILENCE = 30.0  # seconds without one, after which an owner on another machine counts as dead


class InUseError(InputError):
    """The run folder belongs to another job that lives; nothing may be left in it."""


class RunLock:
    """The lock of a run folder, held by rank 0."""

    def __init__(self, run_dir: Path) -> None:
        self.path, self.run_dir, self.token = run_dir / "lock.json", run_dir, uuid.uuid4().hex
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, say: Callable[[str], None]) -> None:
        """Takes the lock, or raises `InUseError` that names who holds it."""
        owner = self._owner()
        if owner is not None and _later_start(owner):
            raise InUseError(
                f"run_dir={self.run_dir} was taken over by {describe(owner)}, a later start of this job; "
                "this copy stops and writes nothing"
            )
        if owner is not None and not self._may_replace(owner):
            say(f"{self.run_dir} belongs to {describe(owner)}; waiting {SILENCE:.0f} s for a sign of life")
            self._wait_for_life(owner)
        try:
            for old in self.run_dir.glob("lock-*.beat"):
                old.unlink(missing_ok=True)
            write_durably(self.path, json.dumps(self._mine()) + "\n")
        except OSError as error:
            raise InputError(f"run_dir={self.run_dir}: cannot be written ({error.strerror}); choose another") from error

    def _mine(self) -> dict:
        return {
            "token": self.token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "born": _born(os.getpid()),
            "job": os.environ.get("SLURM_JOB_ID", ""),
            "start": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
            "launch": os.environ.get("TORCHELASTIC_RUN_ID", ""),
        }

    def _owner(self) -> dict | None:
        try:
            owner = json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None  # free, or torn by a crash of the disk
        return owner if isinstance(owner, dict) and "token" in owner else None

    def _may_replace(self, owner: dict) -> bool:
        """Whether an owner is certainly dead, or was replaced by the scheduler that started us."""
        job, launch = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("TORCHELASTIC_RUN_ID", "")
        if job and owner.get("job") == job:
            return True  # the same job, requeued
        if launch not in ("", "none") and owner.get("launch") == launch:
            return True  # the same torchrun, which has restarted its ranks
        pid = int(owner.get("pid", 0))
        return owner.get("host") == socket.gethostname() and (pid == os.getpid() or owner.get("born") != _born(pid))

    def _wait_for_life(self, owner: dict) -> None:
        # Clocks of two machines differ, so the owner's beats are counted by our own clock.
        local, before = owner.get("host") == socket.gethostname(), self._beat_of(owner)
        deadline = time.monotonic() + SILENCE
        while time.monotonic() < deadline:
            seen = self._owner()
            if seen is None:
                return
            if local or seen["token"] != owner["token"] or self._beat_of(seen) != before:
                raise InUseError(
                    f"run_dir={self.run_dir} is in use by {describe(seen)}; stop that job (touch "
                    f"{self.run_dir / 'STOP'}), wait for it, or choose another run_dir"
                )
            time.sleep(1)

    def _beat_path(self, token: str) -> Path:
        # A file of its own: an owner who writes his signs of life into the lock could overwrite his successor's name.
        return self.run_dir / f"lock-{token}.beat"

    def _beat_of(self, owner: dict) -> str:
        try:
            return self._beat_path(owner["token"]).read_text(encoding="utf-8")
        except OSError:
            return ""

    def beat(self, lost: Callable[[str], None]) -> None:
        """Starts to show signs of life; calls `lost(owner)` once when another owner is seen."""

        def run() -> None:
            count = 0
            while not self._stop.wait(BEAT):
                if owner := self.taken_by():
                    lost(owner)
                    return
                count += 1
                self._write_beat(count)

        self._thread = threading.Thread(target=run, name="run lock", daemon=True)
        self._thread.start()

    def _write_beat(self, count: int) -> None:
        try:
            self._beat_path(self.token).write_text(f"{count}\n", encoding="utf-8")
        except OSError as error:
            # A full disk is no reason to die: a job on another machine would merely see no life.
            log.warning("%s: %s", self._beat_path(self.token), error.strerror)

    def taken_by(self) -> str:
        """Who owns the run folder instead of this process, or ""."""
        owner = self._owner()
        return "" if owner is not None and owner["token"] == self.token else describe(owner)

    def release(self) -> None:
        """Ends the signs of life and removes the lock, if it is still ours."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if not self.taken_by():
            self.path.unlink(missing_ok=True)
        self._beat_path(self.token).unlink(missing_ok=True)


def describe(owner: dict | None) -> str:
    """Who holds a lock, for messages."""
    if owner is None:
        return "somebody who removed lock.json"
    job = f"job {owner['job']}, " if owner.get("job") else ""
    return f"{job}process {owner.get('pid')} on {owner.get('host')}"


def _later_start(owner: dict) -> bool:
    """Whether a lock belongs to a later start of our own SLURM job: we are what a network cut left behind."""
    job, start = os.environ.get("SLURM_JOB_ID", ""), int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    return job != "" and owner.get("job") == job and owner.get("start", 0) > start


def _born(pid: int) -> str:
    """What tells a living process from a later one of the same id: machine start and process start; "" if dead."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state == "Z" else f"{boot} {fields[18]}"
