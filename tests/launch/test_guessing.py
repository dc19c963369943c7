"""What a stage reaches that has learned nothing, worked out by hand, and what is said of one that is no better."""

import json
import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

from launch import guessing
from launch.report import write_report
from launch.run import Run
from launch.stages import weak_rewards


def test_guessing_is_the_entropy_of_the_labels():
    assert guessing.guessing_loss(0.0) == pytest.approx(0.6931472)
    # Targets 0.9 and 0, as many of each: 0.45 for every token costs -0.45 ln 0.45 - 0.55 ln 0.55.
    assert guessing.guessing_loss(0.1) == pytest.approx(0.6881388)
    assert guessing.guessing_loss(0.0, real=0.25) == pytest.approx(0.5623351)
    assert guessing.guessing_loss(0.0, real=0.0) == 0


def test_no_answer_that_is_the_same_for_all_costs_less_than_guessing():
    def cost(p):
        return -0.5 * (0.8 * math.log(p) + 0.2 * math.log(1 - p)) - 0.5 * math.log(1 - p)

    assert min(cost(i / 100) for i in range(1, 100)) == pytest.approx(guessing.guessing_loss(0.2), abs=1e-9)


def test_chance_finds_one_list_a_batch():
    assert guessing.chance_accuracy(440, 128) == pytest.approx(4 / 440)
    assert guessing.chance_accuracy(10, 128) == 0.1


def test_the_mean_of_train_is_judged_on_validation():
    rows = {"train": np.array([0, 1]), "valid": np.array([2, 3])}
    corpus = SimpleNamespace(rating_R=np.array([2.0, 4.0, 5.0, 3.0], dtype=np.float32), rows=rows.__getitem__)
    assert guessing.mean_rmse(corpus) == pytest.approx(math.sqrt((4 + 0) / 2))


def test_word_frequencies_by_hand():
    # Counts 2, 1, 0, 0 and one more each: 3/7, 2/7, 1/7, 1/7. Means of texts, then of them; an empty text is none.
    expected = (math.log(7 / 3) + (math.log(7 / 2) + math.log(7)) / 2) / 2
    assert guessing.unigram_loss([[0, 1], [0]], [[0], [1, 3], []], 4) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("said", "weak"),
    [
        (guessing.weak_hqar(0.740, 0.1), True),
        (guessing.weak_hqar(0.688, 0.1), True),
        (guessing.weak_hqar(0.650, 0.1), False),
        (guessing.weak_rating(1.1, 1.1), True),
        (guessing.weak_rating(0.9, 1.1), False),
        (guessing.weak_explanation(7.2, 6.0), True),
        (guessing.weak_explanation(2.0, 6.0), False),
        (guessing.weak_ccr(4 / 440, 440, 128), True),  # 4 of 440 by lot, which may as well be 9
        (guessing.weak_ccr(9 / 440, 440, 128), True),
        (guessing.weak_ccr(12 / 440, 440, 128), False),
        (guessing.weak_ccr(1.0, 4, 128), False),  # all four, of which chance finds one
        (guessing.weak_ccr(1.0, 1, 128), True),  # one alone says nothing
    ],
)
def test_a_stage_that_is_no_better_than_guessing_is_told(said, weak):
    assert len(said) == weak


def test_the_sentences_name_figure_level_and_remedy():
    (hqar,), (ccr,) = guessing.weak_hqar(0.7402, 0.1), guessing.weak_ccr(0.0091, 440, 128)
    assert "loss 0.7402 on validation, guessing 0.6881" in hqar
    assert "hqar.fit.lr" in hqar
    assert "ppo.lambda_hqar=0" in hqar
    assert "0.0091 of 440 validation texts find their own concept list, by lot 0.00909 do" in ccr


def test_a_network_of_which_next_to_nothing_learns_is_told_unless_adapters_do():
    network = nn.ModuleDict({"trunk": nn.Linear(100, 100), "head": nn.Linear(100, 1)})
    assert guessing.little_trained(network) == []
    network["trunk"].requires_grad_(False)
    (said,) = guessing.little_trained(network)
    assert said.startswith("trains only 101 of 10,201 parameters (0.99 %)")
    network["lora_A"] = nn.Linear(1, 1)
    assert guessing.little_trained(network) == []


def marker(stage, loss, warnings=()):
    summary = {"valid_loss": loss} | ({"warnings": list(warnings)} if warnings else {})
    return {"stage": stage, "summary": summary, "config": {"hqar.smoothing": 0.1}}


@pytest.mark.parametrize(("weight", "count"), [(1.0, 2), (0.0, 1)])
def test_ppo_is_warned_of_both_reward_models_whoever_trained_them(weight, count):
    """The hqar stage is of an earlier version, which did not look; one that pays nothing is passed over."""
    markers = {"ccr": marker("ccr", 1.0, ["the encoder guesses"]), "hqar": marker("hqar", 0.74)}
    config = SimpleNamespace(ppo=SimpleNamespace(lambda_ccr=1.0, lambda_hqar=weight))
    said = weak_rewards(SimpleNamespace(config=config, folder=SimpleNamespace(marker=markers.__getitem__)))
    assert said[0] == "is paid by the ccr stage: the encoder guesses"
    assert len(said) == count
    assert all("0.74 on validation" in sentence for sentence in said[1:])


def test_ppo_is_warned_once_of_what_the_stage_said_itself():
    markers = {"ccr": marker("ccr", 1.0), "hqar": marker("hqar", 0.74, guessing.weak_hqar(0.74, 0.1))}
    config = SimpleNamespace(ppo=SimpleNamespace(lambda_ccr=1.0, lambda_hqar=1.0))
    said = weak_rewards(SimpleNamespace(config=config, folder=SimpleNamespace(marker=markers.__getitem__)))
    assert said == [f"is paid by the hqar stage: {guessing.weak_hqar(0.74, 0.1)[0]}"]


def test_a_warning_is_said_and_stands_in_the_summary(caplog):
    run = Run.__new__(Run)
    run.warnings = {}
    with caplog.at_level(logging.WARNING, logger="llm2er"):
        assert run.summary("ccr", {"accuracy": 0.5}, []) == {"accuracy": 0.5}
        assert run.summary("hqar", {"valid_loss": 0.7}, ["it guesses"]) == {
            "valid_loss": 0.7,
            "warnings": ["it guesses"],
        }
    assert [entry.getMessage() for entry in caplog.records] == ["WARNING: hqar: it guesses"]


def test_what_stages_warned_of_stands_in_the_report_once_by_the_first_stage_that_said_it(tmp_path):
    run, other = tmp_path / "mine", tmp_path / "other"
    said = {
        run / "hqar": ["it <b>guesses</b>"],
        run / "ppo": ["is paid by the hqar stage: it <b>guesses</b>", "little learns"],
    }
    for stage, sentences in (said | {other / "hqar": ["of elsewhere"]}).items():
        (stage / "export").mkdir(parents=True)
        (stage / "export" / "stage.json").write_text(json.dumps({"summary": {"warnings": sentences}}))
    (run / "config.yaml").write_text("seed: 7\n")
    page = write_report(run).read_text()
    told = "<li>Warning: hqar: it &lt;b&gt;guesses&lt;/b&gt;</li><li>Warning: ppo: little learns</li>"
    assert f'<ul id="warnings">{told}</ul>' in page
    (run / "config.yaml").write_text(f"hqar:\n  init_from: {other / 'hqar'}\n")
    assert "<li>Warning: hqar: of elsewhere</li><li>Warning: ppo: is paid by" in write_report(run).read_text()
    (run / "ppo" / "export" / "stage.json").unlink()
    (run / "config.yaml").write_text("seed: 7\n")
    (run / "hqar" / "export" / "stage.json").write_text("{}")
    assert 'id="warnings"' not in write_report(run).read_text()
