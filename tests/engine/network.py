"""Two ranks on two machines whose network is cut; prints what was seen as JSON.

    network.py WORK

The machines are network namespaces of this one, joined by a virtual cable; making them takes root and `ip`.
"""

import ctypes
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
from disturbing import checkpoints, kills, run, tail_equals

from lightning_modules.collectives import world

CLONE_NEWNET = 0x40000000  # of sched.h


class Network:
    """Two machines and the cable between them."""

    def __init__(self) -> None:
        self.machines = [f"llm2er-{os.getpid()}-{rank}" for rank in (0, 1)]

    def __enter__(self) -> "Network":
        for machine in self.machines:
            ip("netns", "add", machine)
        first, second = self.machines
        ip("link", "add", "cable", "netns", first, "type", "veth", "peer", "name", "cable", "netns", second)
        for rank, machine in enumerate(self.machines):
            ip("-n", machine, "address", "add", f"10.213.78.{rank + 1}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", machine, "link", "set", device, "up")
        return self

    def __exit__(self, *error: object) -> None:
        for machine in self.machines:
            ip("netns", "delete", machine)

    def move(self, rank: int) -> None:
        """Takes this process to the machine of a rank."""
        with open(f"/run/netns/{self.machines[rank]}") as place:
            if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        os.environ |= {"MASTER_ADDR": "10.213.78.1", "GLOO_SOCKET_IFNAME": "cable"}

    def cut(self) -> None:
        """Nothing comes through any more, and nobody is told."""
        ip("-n", self.machines[0], "link", "set", "cable", "down")

    def join(self) -> None:
        """What was sent meanwhile is sent again by TCP."""
        ip("-n", self.machines[0], "link", "set", "cable", "up")


def ip(*arguments: str) -> None:
    """Runs the command of iproute2."""
    subprocess.run([shutil.which("ip") or "ip", *arguments], check=True)


class InSave(pl.Callback):
    """Does something on rank 0 in the middle of the save of a step."""

    def __init__(self, step: int, action: Callable[[], None]) -> None:
        self.step, self.action = step, action

    def on_save_checkpoint(self, trainer, module, checkpoint) -> None:  # noqa: ANN001
        if trainer.global_step == self.step and world()[0] == 0:
            self.action()


def content(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a run."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def replaced(work: Path) -> dict:
    """The network is cut within a save; SLURM starts the job again elsewhere; then the network is back."""
    arguments = ("checkpoint.every_n_steps=3", "checkpoint.keep=99")
    whole, folder, cut = run(work, "whole", "rating", *arguments), work / "run", work / "cut"
    with Network() as network:

        def sever() -> None:
            network.cut()
            cut.touch()

        os.environ |= {"SLURM_JOB_ID": "4711", "SLURM_RESTART_COUNT": "0"}
        keys = [*kills.SMALL, f"run_dir={folder}", *arguments]
        stale = kills.start("rating", keys, work / "stale.log", also=[InSave(6, sever)], move=network.move)
        ended: dict[int, int] = {}
        while not cut.exists() and kills.alive(stale, ended) == stale:
            time.sleep(0.02)
        hangs = kills.alive(stale, ended) == stale
        again = run(work, "run", "rating", *arguments, SLURM_RESTART_COUNT="1")
        before, hangs = content(folder), hangs and kills.alive(stale, ended) == stale
        network.join()
        limit = time.monotonic() + 120  # TCP tries again after twice the time of the cut, at worst
        while running := kills.alive(stale, ended):
            if time.monotonic() > limit:
                for pid in running:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        del os.environ["SLURM_JOB_ID"], os.environ["SLURM_RESTART_COUNT"]
    return {
        "hung": hangs,
        "codes": [ended[pid] for pid in stale],
        "printed": (work / "stale.rank0").read_text(),
        "again": again["codes"],
        "printed_again": again["printed"][0],
        "left_alone": content(folder) == before,
        "checkpoints": checkpoints(work, "run", "rating"),
        "losses": tail_equals(whole["log"], again["log"]),
        "products": kills.products(folder) == kills.products(work / "whole"),
    }


def cut_for_good(work: Path) -> dict:
    """The network is cut in a save and stays so."""
    began = time.monotonic()
    with Network() as network:
        arguments = ("checkpoint.every_n_steps=3", "hardware.hang_timeout=3")
        seen = run(work, "run", "rating", *arguments, also=[InSave(6, network.cut)], move=network.move)
    told = [(work / "run" / "rating" / f"hang-rank-{rank:05d}.txt").read_text() for rank in (0, 1)]
    names = checkpoints(work, "run", "rating")
    return {"codes": seen["codes"], "told": told, "seconds": time.monotonic() - began, "checkpoints": names}


def main() -> None:
    """Both ways."""
    found = {}
    for scenario in (replaced, cut_for_good):
        work = Path(sys.argv[1]) / scenario.__name__
        work.mkdir(parents=True)
        began = time.monotonic()
        found[scenario.__name__] = scenario(work)
        print(f"{scenario.__name__}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
