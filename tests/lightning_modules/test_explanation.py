"""Fine-tuning the explaining model: the loss of each record counts once, and connectors learn first."""

from types import SimpleNamespace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from datamodules.prompts import PromptBatch
from lightning_modules.explanation import ExplanationConfig, ExplanationModule
from lightning_modules.fitting import FitConfig
from models.explainer import Explainer

RESPONSES = [[5, 6, 7, 1], [8, 1], [9, 4, 1]]


@pytest.fixture
def module():
    torch.manual_seed(0)
    shape = {"vocab_size": 12, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    lm = GPT2LMHeadModel(GPT2Config(**shape, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))
    config = ExplanationConfig(connector_epochs=1, fit=FitConfig(epochs=4, lr=0.01, warmup=0.0))
    made = ExplanationModule(config, Explainer(lm, 4), None)
    made.logged = {}
    made.log = lambda name, value, **options: made.logged.update({name: float(value)})
    return made


def batch(weight=(1.0, 1.0, 1.0), scale=1 / 3):
    """Prompts of one token and three soft vectors."""
    draw = torch.Generator().manual_seed(1)
    rows, length = len(RESPONSES), max(map(len, RESPONSES))
    return PromptBatch(
        prompt_BP=torch.tensor([[2, 0, 0, 0]] * rows),
        slot_BP=torch.tensor([[0, 1, 2, 3]] * rows),
        prompt_mask_BP=torch.ones(rows, 4, dtype=torch.long),
        response_BT=torch.tensor([ids + [0] * (length - len(ids)) for ids in RESPONSES]),
        response_mask_BT=torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids in RESPONSES]),
        user_BD=torch.randn(rows, 4, generator=draw),
        item_BD=torch.randn(rows, 4, generator=draw),
        sentiment_B=torch.tensor([0, 1, 2]),
        record_B=torch.arange(rows),
        weight_B=torch.tensor(weight),
        scale=scale,
    )


@torch.no_grad()
def token_losses(module, given):
    """-log P of each token of each response, read row by row through the whole language model."""
    explainer, found = module.explainer, []
    soft = explainer.user(given.user_BD), explainer.item(given.item_BD), explainer.sentiment(given.sentiment_B)
    table = explainer.lm.get_input_embeddings()
    for row, ids in enumerate(RESPONSES):
        parts = [table(torch.tensor([2])), *(vector[row : row + 1] for vector in soft), table(torch.tensor(ids))]
        logits = explainer.lm(inputs_embeds=torch.cat(parts)[None]).logits[0, 3:-1]
        found.append([-float(line.log_softmax(0)[token]) for line, token in zip(logits, ids, strict=True)])
    return found


def test_the_loss_is_the_mean_over_records_of_the_mean_over_their_tokens(module):
    losses = token_losses(module, batch())
    by_record = [sum(row) / len(row) for row in losses]
    pooled = sum(map(sum, losses)) / sum(map(len, losses))
    expected = sum(by_record) / 3
    assert abs(expected - pooled) > 1e-3, "the test has no power if both means agree"
    assert float(module.training_step(batch(), 0)) == pytest.approx(expected, rel=1e-5)


def test_a_row_that_only_keeps_ranks_in_step_counts_nothing(module):
    first, second, _ = (sum(row) / len(row) for row in token_losses(module, batch()))
    loss = module.training_step(batch((1.0, 1.0, 0.0), 0.5), 0)
    assert float(loss) == pytest.approx((first + second) / 2, rel=1e-5)


@torch.no_grad()
def test_validation_is_by_record_and_perplexity_by_token(module):
    losses = token_losses(module, batch())
    module.validation_step(batch(), 0)
    module.on_validation_epoch_end()
    assert module.logged["explanation/valid/loss"] == pytest.approx(sum(sum(r) / len(r) for r in losses) / 3, rel=1e-5)
    pooled = torch.tensor([loss for row in losses for loss in row]).mean().exp()
    assert module.logged["explanation/valid/perplexity"] == pytest.approx(float(pooled), rel=1e-4)


def test_the_language_model_rests_in_the_connector_epochs_and_learns_behind_them(module):
    module._trainer = SimpleNamespace(estimated_stepping_batches=8)
    made = module.configure_optimizers()
    optimizer, schedule, rates = made["optimizer"], made["lr_scheduler"]["scheduler"], []
    for _ in range(8):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    soft, language = zip(*rates, strict=True)
    assert min(soft) > 0
    assert language[:2] == (0.0, 0.0)
    assert min(language[2:]) > 0
    assert language[2] == 0.01
    held = {id(p) for p in optimizer.param_groups[0]["params"]}
    assert held == {id(p) for name, p in module.explainer.named_parameters() if not name.startswith("lm.")}
