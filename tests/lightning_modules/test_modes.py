"""Networks that are fitted have their dropout on, although models are read in evaluation mode."""

import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, GPT2Model

from lightning_modules.ccr import CCRConfig, CCRModule
from lightning_modules.explanation import ExplanationConfig, ExplanationModule
from lightning_modules.hqar import HQARConfig, HQARModule
from models.discriminator import Discriminator
from models.explainer import Explainer
from models.text_encoder import TextEncoder

GPT2 = {"vocab_size": 20, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}


def test_fitted_networks_learn_with_dropout():
    bert = BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    modules = [
        ExplanationModule(ExplanationConfig(), Explainer(GPT2LMHeadModel(GPT2Config(**GPT2)), 4).eval(), None),
        CCRModule(CCRConfig(), TextEncoder(BertModel(bert), []).eval(), None),
        HQARModule(HQARConfig(), Discriminator(GPT2Model(GPT2Config(**GPT2)), 1).eval()),
    ]
    for module in modules:
        dropouts = [part for part in module.modules() if isinstance(part, torch.nn.Dropout)]
        assert dropouts
        assert all(part.training for part in dropouts)
