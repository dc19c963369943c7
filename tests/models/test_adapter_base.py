"""Where the base model of adapters is found after a run folder was moved."""

import shutil
from pathlib import Path

import pytest
import torch

from metrics.errors import InputError
from models.language_model import LoraConfig, NewModelConfig, create_language_model, load_language_model, load_trunk

ADAPTERS = Path("ppo", "export", "lm")


@pytest.fixture(scope="module")
def created(tmp_path_factory):
    folder = tmp_path_factory.mktemp("created")
    create_language_model(["the sound is warm ."], NewModelConfig(16, 2, 2, 320), 48, folder, seed=1)
    return folder


@pytest.fixture
def moved(created, tmp_path):
    """The folder `moved` of a run whose adapters were trained in the folder `run`."""
    base = tmp_path / "run" / "explanation" / "base"
    shutil.copytree(created, base)
    load_language_model(str(base), LoraConfig(rank=2)).save_pretrained(tmp_path / "run" / ADAPTERS)
    return (tmp_path / "run").rename(tmp_path / "moved")


def embeddings(model):
    return model.get_input_embeddings().weight


def test_a_moved_run_has_its_base_with_it(created, moved):
    found = load_language_model(str(moved / ADAPTERS))
    assert torch.equal(embeddings(found), embeddings(load_language_model(str(created))))
    assert len(load_trunk(str(moved / ADAPTERS), 1).h) == 1


def test_a_new_run_in_the_old_place_is_not_taken_for_the_old_one(created, moved):
    shutil.copytree(created, moved.with_name("run") / "explanation" / "base")
    with pytest.raises(InputError, match=r"is \S+/moved/explanation/base or \S+/run/explanation/base; take the wrong"):
        load_language_model(str(moved / ADAPTERS))


def test_a_base_that_is_gone_is_named(moved):
    shutil.rmtree(moved / "explanation")
    with pytest.raises(InputError, match=r"moved/ppo/export/lm: .*/run/explanation/base, which is gone; bring it back"):
        load_language_model(str(moved / ADAPTERS))


def test_another_folder_of_the_same_name_is_no_base(created, tmp_path):
    base, adapters = tmp_path / "old" / "models" / "gpt2", tmp_path / "new" / "adapters"
    shutil.copytree(created, base)
    load_language_model(str(base), LoraConfig(rank=2)).save_pretrained(adapters)
    shutil.rmtree(base)
    shutil.copytree(created, tmp_path / "new" / "models" / "gpt2")
    with pytest.raises(InputError, match="old/models/gpt2, which is gone"):
        load_language_model(str(adapters))


def test_adapters_that_name_no_model_are_refused(moved):
    config = moved / ADAPTERS / "adapter_config.json"
    config.write_text(config.read_text().replace(str(moved.with_name("run") / "explanation" / "base"), ""))
    with pytest.raises(InputError, match=r"adapter_config\.json: has no base_model_name_or_path"):
        load_language_model(str(moved / ADAPTERS))
