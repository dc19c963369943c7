"""What is installed is what is pinned, and what is pinned is locked by checksums."""

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PIN = re.compile(r"^([\w.-]+)==([\w.]+)", re.MULTILINE)
PINS = {canonicalize_name(name): pin for name, pin in PIN.findall((ROOT / "constraints.txt").read_text())}
LOCKED = (ROOT / "requirements.lock").read_text()
LOCK = {canonicalize_name(name): pin for name, pin in PIN.findall(LOCKED)}


def needed(name: str, extras: frozenset[str], seen: set[tuple[str, str]]) -> Iterator[str]:
    """Every distribution that one needs on this machine, and what those need."""
    for line in requires(name) or []:
        requirement = Requirement(line)
        marker = requirement.marker
        for extra in ("", *extras):
            if (requirement.name, extra) in seen or (marker and not marker.evaluate({"extra": extra})):
                continue
            seen.add((requirement.name, extra))
            yield canonicalize_name(requirement.name)
            yield from needed(requirement.name, frozenset(requirement.extras), seen)


@pytest.fixture(scope="module")
def distributions() -> set[str]:
    found = set(needed("llm2er", frozenset({"dev"}), set()))
    assert len(found) > 80
    return found


def test_everything_that_is_installed_is_of_the_version_that_is_pinned(distributions: set[str]) -> None:
    other = {}
    for name in distributions:
        try:
            installed = version(name).partition("+")[0]  # of torch the part before +cpu
        except PackageNotFoundError:
            installed = "absent"
        if installed != PINS.get(name):
            other[name] = (installed, PINS.get(name))
    # torch's own, in the lock
    gpu = {name for name in other if name.startswith(("nvidia-", "cuda-")) or name == "triton"}
    assert {name: other[name] for name in other.keys() - gpu} == {}


def test_everything_that_is_installed_is_locked_at_that_version(distributions: set[str]) -> None:
    assert {name: LOCK.get(name) for name in distributions & PINS.keys()} == {
        name: PINS[name] for name in distributions & PINS.keys()
    }
    assert {name: pin for name, pin in LOCK.items() if PINS.get(name, pin) != pin} == {}


def test_every_file_that_the_lock_allows_has_a_checksum() -> None:
    entries = re.split(r"^(?=[\w.-]+==)", re.sub(r"^#.*\n", "", LOCKED, flags=re.MULTILINE), flags=re.MULTILINE)[1:]
    assert len(entries) > 100
    for entry in entries:
        first, *hashes = (line.strip() for line in entry.strip().splitlines())
        assert hashes, first
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}( \\)?", line) for line in hashes), first


def test_versions_known_to_be_malware_or_open_to_it_are_out() -> None:
    for pins in (PINS, LOCK):
        # CVE-2026-58659; 2.6.2 and 2.6.3 were malware
        assert tuple(map(int, pins["pytorch-lightning"].split("."))) >= (2, 6, 6)
        assert "lightning" not in pins
    assert "pytorch-lightning>=2.6.6" in (ROOT / "setup.cfg").read_text()


def test_every_dependency_is_pinned_to_one_version() -> None:
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    assert [line for line in lines if line and not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert len([line for line in lines if line]) == len(PINS)
