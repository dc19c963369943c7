"""The two reward models as they are fitted: their losses by slow loops, what validation counts."""

import math

import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

from datamodules.contrastive import PairBatch
from datamodules.quality import QualityBatch
from lightning_modules.ccr import CCRConfig, CCRModule
from lightning_modules.hqar import HQARConfig, HQARModule
from models.discriminator import Discriminator
from models.text_encoder import TextEncoder


def watched(module):
    module.logged = {}
    module.log = lambda name, value, **options: module.logged.update({name: float(value)})
    return module.eval()


@pytest.fixture
def ccr():
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return watched(
        CCRModule(CCRConfig(temperature=0.5), TextEncoder(BertModel(BertConfig(vocab_size=20, **shape)), []), None)
    )


def pairs(weight=(1.0, 1.0, 1.0)):
    texts, lists = torch.tensor([[3, 4, 5], [6, 7, 0], [8, 9, 10]]), torch.tensor([[4, 3], [11, 12], [9, 0]])
    masks = (texts > 0).long(), (lists > 0).long()
    return PairBatch(texts, masks[0], lists, masks[1], torch.arange(3), torch.tensor(weight), 1 / sum(weight))


def contrast(module, rows):
    """(loss, share of texts nearest to their own list) of some of the pairs, entry by entry."""
    with torch.no_grad():
        batch = pairs()
        texts = module.encoder(batch.text_BS, batch.text_mask_BS)[rows]
        lists = module.encoder(batch.concepts_BS, batch.concepts_mask_BS)[rows]
    cosine = [[float(a @ b) for b in lists] for a in texts]
    loss, n = 0.0, len(rows)
    for i in range(n):
        there = sum(math.exp(cosine[i][j] / 0.5) for j in range(n))
        back = sum(math.exp(cosine[j][i] / 0.5) for j in range(n))
        loss -= (2 * cosine[i][i] / 0.5 - math.log(there) - math.log(back)) / 2
    return loss / n, sum(max(row) == row[i] for i, row in enumerate(cosine)) / n


def test_ccr_contrasts_each_pair_with_all_others_in_both_directions(ccr):
    assert float(ccr.training_step(pairs(), 0)) == pytest.approx(contrast(ccr, [0, 1, 2])[0], rel=1e-5)


def test_a_pair_that_only_keeps_ranks_in_step_is_no_negative(ccr):
    assert float(ccr.training_step(pairs((1.0, 1.0, 0.0)), 0)) == pytest.approx(contrast(ccr, [0, 1])[0], rel=1e-5)


@torch.no_grad()
def test_ccr_validation_is_how_often_a_text_finds_its_list(ccr):
    loss, right = contrast(ccr, [0, 1, 2])
    ccr.validation_step(pairs(), 0)
    ccr.on_validation_epoch_end()
    assert ccr.logged == pytest.approx({"ccr/valid/retrieval_accuracy": right, "ccr/valid/loss": loss}, rel=1e-5)


@pytest.fixture
def hqar():
    torch.manual_seed(0)
    trunk = GPT2Model(GPT2Config(vocab_size=12, n_positions=16, n_embd=16, n_layer=1, n_head=2))
    return watched(HQARModule(HQARConfig(smoothing=0.2), Discriminator(trunk, 1)))


def quality(weight=(1.0, 1.0, 1.0)):
    texts = torch.tensor([[3, 4, 5], [6, 7, 0], [8, 0, 0]])
    real, kept = torch.tensor([1.0, 0.0, 1.0]), torch.tensor(weight)
    return QualityBatch(texts, (texts > 0).long(), real, torch.arange(3), kept, 1 / sum(weight))


def judged(module):
    """(loss, logits) of each text: the mean over its tokens; real ones aim at 1 - smoothing, sampled ones at 0."""
    with torch.no_grad():
        logits_BT = module.discriminator(quality().text_BT, quality().mask_BT)
    found = []
    for row, (length, target) in enumerate([(3, 0.8), (2, 0.0), (1, 0.8)]):
        chances = [1 / (1 + math.exp(-float(z))) for z in logits_BT[row, :length]]
        loss = -sum(target * math.log(p) + (1 - target) * math.log(1 - p) for p in chances) / length
        found.append((loss, logits_BT[row, :length].tolist()))
    return found


def test_hqar_learns_real_from_sampled_texts_by_the_mean_over_texts(hqar):
    losses = [loss for loss, _ in judged(hqar)]
    assert float(hqar.training_step(quality(), 0)) == pytest.approx(sum(losses) / 3, rel=1e-5)
    assert float(hqar.training_step(quality((1.0, 1.0, 0.0)), 0)) == pytest.approx(sum(losses[:2]) / 2, rel=1e-5)


@torch.no_grad()
def test_hqar_validation_counts_tokens_and_texts(hqar):
    torch.nn.init.constant_(hqar.discriminator.head.bias, 0.1)
    found = judged(hqar)
    real = [True, False, True]
    tokens = [(z > 0) == is_real for (_, logits), is_real in zip(found, real, strict=True) for z in logits]
    texts = [(sum(logits) > 0) == is_real for (_, logits), is_real in zip(found, real, strict=True)]
    hqar.validation_step(quality(), 0)
    hqar.on_validation_epoch_end()
    assert hqar.logged == pytest.approx(
        {
            "hqar/valid/loss": sum(loss for loss, _ in found) / 3,
            "hqar/valid/token_accuracy": sum(tokens) / 6,
            "hqar/valid/text_accuracy": sum(texts) / 3,
        },
        rel=1e-5,
    )
