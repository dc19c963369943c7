"""The policy that is kept: the best on held-out prompts among those that stay diverse, and never worse than before."""

import math
from types import SimpleNamespace

import pytest
import torch

from callbacks.held_out import HeldOutEvaluation
from metrics.suite import ConceptKnowledge

# Records 0 and 1 of users 0, 1 and items 0, 0. Concepts: sound, room, battery life.
KNOWLEDGE = ConceptKnowledge(["sound", "room", "battery life"], [{0}, {1}], [{2}], 1.0, 5.0)
DIVERSE = ["the sound is warm", "a big room here"]


class Module:
    """Stands for the PPO module: scripted answers to `held_out`, and a list of exports."""

    def __init__(self, *answers):
        self.answers, self.exported, self.asked = list(answers), [], 0

    def held_out(self):
        texts, ccr, hqar = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        return list(range(len(texts))), texts, {"ccr": torch.tensor(ccr), "hqar": torch.tensor(hqar)}

    def export(self, folder):
        assert folder.is_dir()
        self.exported.append(self.asked - 1)


class Logger:
    def __init__(self):
        self.rows = []

    def log_metrics(self, metrics, step):
        self.rows.append((step, metrics))


def evaluation(folder, every=1, ccr=1.0, hqar=1.0, drop=0.05):
    weights = {"ccr": ccr, "hqar": hqar}
    return HeldOutEvaluation(folder / "export", ([0, 1], [0, 0]), KNOWLEDGE, every, weights, drop, lambda: "")


def train(callback, module, iterations, stop_at=None):
    logger = Logger()
    trainer = SimpleNamespace(max_epochs=iterations, global_step=0, loggers=[logger], should_stop=False)
    callback.on_train_start(trainer, module)
    for iteration in range(iterations):
        trainer.current_epoch, trainer.global_step = iteration, 10 * (iteration + 1)
        trainer.should_stop = iteration == stop_at
        callback.on_train_epoch_end(trainer, module)
        if trainer.should_stop:
            break
    return logger


def answers(*rewards, texts=DIVERSE):
    """Answers whose rewards are (mean ccr, mean hqar), one below and one above the mean by 0.1 and 0.2."""
    return [(texts, [c - 0.1, c + 0.1], [h - 0.2, h + 0.2]) for c, h in rewards]


def test_the_untouched_policy_is_kept_first(tmp_path):
    module = Module(*answers((0.5, 1.0)))
    callback = evaluation(tmp_path)
    callback.on_train_start(SimpleNamespace(loggers=[], global_step=0), module)
    assert module.exported == [0]
    assert callback.history[0]["score"] == 0


def test_a_better_policy_is_kept_and_a_worse_one_is_not(tmp_path):
    module = Module(*answers((0.5, 1.0), (0.6, 1.0), (0.55, 1.0), (0.4, 1.0), (0.7, 1.0)))
    train(evaluation(tmp_path), module, 4)
    assert module.exported == [0, 1, 4]


def test_an_equal_policy_does_not_replace_the_one_that_was_kept(tmp_path):
    module = Module(*answers((0.5, 1.0), (0.5, 1.0)))
    train(evaluation(tmp_path), module, 1)
    assert module.exported == [0]


def test_the_score_is_the_weighted_gain_in_deviations_of_the_first_evaluation(tmp_path):
    module = Module(*answers((0.5, 1.0), (0.6, 0.9)))
    callback = evaluation(tmp_path, ccr=2.0, hqar=0.5)
    train(callback, module, 1)
    ccr_spread, hqar_spread = 0.1, 0.2  # of two values
    expected = 2.0 * 0.1 / ccr_spread + 0.5 * -0.1 / hqar_spread
    assert callback.history[1]["score"] == pytest.approx(expected, rel=1e-5)


def test_a_reward_of_weight_zero_does_not_count(tmp_path):
    module = Module(*answers((0.5, 1.0), (0.4, 9.0)))
    train(evaluation(tmp_path, hqar=0.0), module, 1)
    assert module.exported == [0]


def test_a_policy_that_has_lost_diversity_is_not_kept_however_high_its_rewards(tmp_path):
    repeated = ["the sound is warm"] * 2  # Distinct-2 falls from 1 to a half
    better = answers((0.5, 1.0)) + answers((5.0, 9.0), texts=repeated)
    module = Module(*better)
    train(evaluation(tmp_path, drop=0.45), module, 1)
    assert module.exported == [0]
    module = Module(*better)
    train(evaluation(tmp_path, drop=0.55), module, 1)
    assert module.exported == [0, 1]


def test_the_log_says_why_a_policy_is_not_kept(tmp_path, caplog):
    better, plain = (5.0, 9.0), answers((0.5, 1.0))
    worse, level = answers((0.6, 0.9)), answers((0.5, 1.0))
    module = Module(*plain, *answers(better, texts=["the sound is warm"] * 2), *worse, *level, *answers(better))
    with caplog.at_level("INFO", logger="llm2er"):
        train(evaluation(tmp_path, drop=0.45), module, 4)
    legend, *lines = caplog.messages
    for name in ("ccr", "hqar", "cmr", "distinct_2", "score"):  # each figure of the lines is explained above them
        assert name in legend.split()
        assert all(f"{name} " in line for line in lines)
    assert [line.rpartition("  ")[2] for line in lines] == [
        "(kept)",
        "(not kept: distinct_2 fell by more than ppo.max_distinct_2_drop=0.45)",
        "(not kept: hqar fell)",
        "(not kept: no higher score)",
        "(kept)",
    ]


@pytest.mark.parametrize(
    ("every", "iterations", "asked"), [(1, 3, 4), (2, 4, 3), (2, 5, 4), (10, 3, 2)], ids=lambda value: str(value)
)
def test_it_evaluates_at_the_start_every_so_often_and_at_the_end(tmp_path, every, iterations, asked):
    module = Module(*answers((0.5, 1.0)))
    train(evaluation(tmp_path, every), module, iterations)
    assert module.asked == asked


def test_it_evaluates_where_a_guard_stops_the_run(tmp_path):
    module = Module(*answers((0.5, 1.0)))
    train(evaluation(tmp_path, every=10), module, 30, stop_at=4)
    assert module.asked == 2


def test_figures_by_hand(tmp_path):
    texts = ["the sound and the battery life", "some sound but no room at all", "nothing here"]
    weights = {"ccr": 1.0, "hqar": 1.0}
    rows = ([0, 1, 1], [0, 0, 0])
    callback = HeldOutEvaluation(tmp_path / "export", rows, KNOWLEDGE, 1, weights, 0.05, lambda: "")
    module = Module((texts, [0.1, 0.2, 0.3], [1.0, 2.0, 3.0]))
    callback.on_train_start(SimpleNamespace(loggers=[], global_step=0), module)
    figures = callback.history[0]
    assert figures["ccr"] == pytest.approx(0.2)
    assert figures["hqar"] == pytest.approx(2.0)
    # User 0 and item 0 know both concepts named; user 1 knows room alone of sound and room; the last text names none.
    assert figures["cmr"] == pytest.approx((1 + 1 / 2) / 2)
    assert figures["concept_rate"] == pytest.approx(2 / 3)
    assert figures["words"] == pytest.approx((6 + 7 + 2) / 3)


def test_texts_without_any_concept_have_matching_rate_zero(tmp_path):
    callback = evaluation(tmp_path)
    callback.on_train_start(
        SimpleNamespace(loggers=[], global_step=0), Module((["none here", "nor there"], [0.1, 0.2], [1.0, 2.0]))
    )
    assert callback.history[0]["cmr"] == 0


def test_every_evaluation_is_logged_at_its_step(tmp_path):
    logger = train(evaluation(tmp_path, every=2), Module(*answers((0.5, 1.0))), 4)
    assert [step for step, _ in logger.rows] == [0, 20, 40]
    names = {"ccr", "hqar", "cmr", "distinct_2", "concept_rate", "words", "score"}
    assert all(set(row) == {f"ppo/valid/{name}" for name in names} for _, row in logger.rows)


def test_equal_rewards_at_first_do_not_make_scores_infinite(tmp_path):
    module = Module((DIVERSE, [0.5, 0.5], [1.0, 1.0]), (DIVERSE, [0.6, 0.6], [1.0, 1.0]))
    callback = evaluation(tmp_path)
    train(callback, module, 1)
    assert math.isfinite(callback.history[1]["score"])
    assert module.exported == [0, 1]


def test_a_single_held_out_prompt_is_enough(tmp_path):
    """Its rewards have no spread, yet the stage must leave a policy: what is kept first is the untouched one."""
    module = Module((DIVERSE[:1], [0.5], [1.0]), (DIVERSE[:1], [0.6], [1.0]))
    train(evaluation(tmp_path), module, 1)
    assert module.exported == [0, 1]
