"""Hours that `dry_run=true` prints: the arithmetic by hand, and that few layers speak for many."""

import pytest
from transformers import LlamaConfig

from datamodules.prompts import ROWS_A_PART
from launch.forecast import Forecast, Lengths, Timed, Work, fitting_seconds, ppo_seconds, room_for
from lightning_modules.fitting import FitConfig
from lightning_modules.ppo.config import PPOConfig
from models.language_model import LoraConfig

SIZES = {"vocab_size": 500, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}


class Linear:
    """Stands for a timed model of few layers."""

    def __init__(self, layers):
        self.layers = layers

    def learning(self, work):
        return 5.0 + 2.0 * self.layers


class Known:
    """Stands for a forecast: seconds by kind and rows."""

    device = "cpu"
    seconds_a_row = {"learning": 6.0, "reading": 2.0, "sampling": 3.0}

    def seconds(self, kind, work):
        return self.seconds_a_row[kind] * len(work.responses)


@pytest.mark.parametrize(("layers", "timed"), [(1, (1,)), (2, (1, 2)), (7, (1, 3))])
def test_layers_that_were_not_timed_take_as_long_as_those_that_were(layers, timed):
    forecast = object.__new__(Forecast)
    forecast.layers, forecast.timed = layers, {count: Linear(count) for count in timed}
    assert forecast.seconds("learning", Work(4, (3,))) == 5 + 2 * layers


def test_a_batch_is_as_long_as_the_texts():
    assert Lengths(4, (1, 2, 3, 40)).work(2) == Work(4, (2, 40))
    assert Lengths(4, (1, 5)).work(4, prompts=2) == Work(4, (1, 1, 5, 5), 2)


def test_epochs_are_shared_by_the_ranks():
    fit = FitConfig(epochs=3, batch_size=16, accumulate=2)
    # 1000 records, 3 times, 6 seconds each, on two ranks at once
    assert fitting_seconds(Known(), 1000, fit, Lengths(4, (5,)), ranks=2) == 1000 * 3 * 6 / 2


@pytest.mark.parametrize(("sft_coef", "learned"), [(0.0, 1), (0.5, 2)])
@pytest.mark.parametrize(("bf16", "read"), [(False, 1), (True, 2)])
def test_an_iteration_samples_reads_and_learns(sft_coef, learned, bf16, read):
    config = PPOConfig(iterations=10, rollout_batch_size=256, mini_batch_size=64, epochs=4, sft_coef=sft_coef)
    # each of 256 samples is sampled (3), read by the reference (2) and learned four times (6); two ranks share them
    expected = 10 * 256 / 2 * (3 + read * 2 + 4 * learned * 6)
    assert ppo_seconds(Known(), config, Lengths(4, (5,)), ranks=2, bf16=bf16) == expected


def test_a_model_is_timed_with_its_own_rows_and_lengths():
    config = LlamaConfig(**SIZES, num_key_value_heads=2, num_hidden_layers=5)
    timed, seen = Timed(config, 1, LoraConfig(), "cpu", bf16=False), []
    timed.explainer.register_forward_pre_hook(lambda _, given: seen.append(given))
    rows = 2 * ROWS_A_PART
    work = Work(6, (2,) * (rows - 1) + (9,))
    assert timed.learning(work) > 0
    assert timed.reading(work) > 0
    assert timed.sampling(work) > 0
    prompt_BPW, _, response_BT, mask_BT, parts = seen[0]
    assert prompt_BPW.shape == (rows, 6, 64)
    assert response_BT.shape == (rows, 9)
    assert mask_BT.sum(1).tolist() == list(work.responses)
    assert parts == 2
    assert config.num_hidden_layers == 5  # the run's own config is left alone


def test_three_layers_speak_for_six():
    config = LlamaConfig(**SIZES, num_hidden_layers=6)
    work = Work(16, (16,) * 32)
    whole = Timed(config, 6, LoraConfig(), "cpu", bf16=False)
    forecast = Forecast(config, LoraConfig(), "cpu", bf16=False)
    # a machine that others use blurs this; benchmarks/forecast.py measures it (benchmarks/NOTES.md)
    assert forecast.seconds("learning", work) == pytest.approx(whole.learning(work), rel=0.6)


def test_layers_that_would_fill_the_memory_are_not_made():
    assert room_for(LlamaConfig(**SIZES, num_hidden_layers=100))
    big = {"vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_attention_heads": 32}
    assert not room_for(LlamaConfig(**big, num_hidden_layers=32))
