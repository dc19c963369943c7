"""What is derived from the stages of a system."""

import pytest

from launch.config import keys
from launch.llm2er_eqr import LLM2ER_EQR
from launch.schema import TrainConfig
from launch.system import Stage, System


def test_a_product_depends_on_what_its_needs_depend_on():
    # Written down from the paper's pipeline (methods A.2), and as every marker of format-1 has it.
    rating = {"seed", "data.", "graph.", "rating."}
    explanation = rating | {"prompt.", "explanation."}
    expected = {
        "rating": rating,
        "explanation": explanation,
        "ccr": rating | {"ccr."},
        "hqar": explanation | {"hqar."},
        "ppo": explanation | {"ccr.", "hqar.", "ppo."},
    }
    assert {name: set(LLM2ER_EQR.depends(name)) for name in LLM2ER_EQR.names} == expected
    assert all(len(LLM2ER_EQR.depends(name)) == len(prefixes) for name, prefixes in expected.items())


def test_stages_come_after_those_that_they_need():
    for place, stage in enumerate(LLM2ER_EQR.stages):
        assert set(stage.needs) <= set(LLM2ER_EQR.names[:place]), stage.name


def test_every_section_and_key_that_a_stage_names_is_one_of_the_config():
    names = [key.name for key in keys(TrainConfig)]
    for stage in LLM2ER_EQR.stages:
        for section in (stage.name, *stage.keys):
            assert any(name.startswith(f"{section}.") for name in names), section
        assert LLM2ER_EQR.length(stage.name) <= set(names)


def test_another_system_needs_no_table_of_ours():
    system = System("two", (Stage("recommender"), Stage("reader", needs=("recommender",), length=("steps",))))
    assert system.names == ("recommender", "reader")
    assert system.depends("reader") == ("seed", "data.", "recommender.", "reader.")
    assert system.length("reader") == {"reader.steps"}
    with pytest.raises(KeyError):
        system.stage("writer")
