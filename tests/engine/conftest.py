"""The run that engine tests compare with."""

from pathlib import Path

import pytest
from running import losses_of


@pytest.fixture(scope="session")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[float]]]:
    """A tiny run on one rank without sharding: (its folder, losses by stage)."""
    folder = tmp_path_factory.mktemp("one_rank")
    return folder, losses_of("", folder, 1, ["zero.stage=0"])
