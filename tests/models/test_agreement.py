"""Families that sample what they are trained on pass, others are refused by name."""

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from metrics.errors import InputError
from models.agreement import check_family, largest_gap

COMMON = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
OWN_NAMES = {
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "vocab_size": 96},
    "gptj": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "vocab_size": 96, "rotary_dim": 4},
    "opt": {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 96,
            "word_embed_proj_dim": 32, "max_position_embeddings": 64},
}  # fmt: skip


def config_of(family: str, **more):
    return CONFIG_MAPPING[family](**OWN_NAMES.get(family, COMMON), **more)


@pytest.mark.parametrize(
    "family",
    ["gpt2", "gptj", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3",
     "stablelm", "starcoder2", "cohere", "olmo", "olmo2", "granite", "smollm3", "glm", "opt"],
)  # fmt: skip
def test_families_that_keep_keys_and_values_pass(family):
    check_family(config_of(family), family)


@pytest.mark.parametrize("family", ["mamba", "mamba2", "recurrent_gemma", "rwkv"])
def test_families_that_keep_a_state_are_refused_by_name(family):
    sizes = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 3}
    if family == "mamba2":
        sizes |= {"num_heads": 8, "head_dim": 8, "expand": 2, "state_size": 8, "n_groups": 1}
    if family == "recurrent_gemma":
        sizes |= {"num_attention_heads": 4, "intermediate_size": 64, "lru_width": 32, "attention_window_size": 16}
    with pytest.raises(InputError, match=f"models/mine: a model of the family {family} .*; supported are causal"):
        check_family(CONFIG_MAPPING[family](**sizes), "models/mine")


@pytest.mark.parametrize(
    "family",
    [
        *("lfm2", "qwen3_next", "granitemoehybrid", "falcon_h1", "jamba", "bamba", "gpt_neo", "gpt_bigcode", "biogpt"),
        *(
            pytest.param(family, marks=pytest.mark.long)
            for family in (
                *("zamba2", "nemotron_h", "mixtral", "qwen2_moe", "qwen3_moe", "codegen", "bloom", "mpt", "falcon"),
                *("xglm", "persimmon", "cohere2", "exaone4", "gpt_oss", "deepseek_v3", "ernie4_5", "helium"),
                *("nemotron", "olmo3", "minimax", "kimi_linear"),
            )
        ),
    ],
)
def test_every_other_family_passes_or_is_refused_in_one_sentence(family):
    if family not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {family}")
    refusal = ""
    try:
        check_family(CONFIG_MAPPING[family](), "models/mine")
    except InputError as error:
        refusal = str(error)
    assert refusal == "" or refusal.startswith(f"models/mine: a model of the family {family} ")
    assert len(refusal.splitlines()) <= 1


def test_states_of_another_width_than_the_embeddings_are_refused():
    config = CONFIG_MAPPING["opt"](**OWN_NAMES["opt"] | {"word_embed_proj_dim": 16})
    with pytest.raises(InputError, match="embeddings of width 16 and states of width 32"):
        check_family(config, "models/mine")


def test_a_model_with_other_inputs_than_text_is_refused(tmp_path):
    with pytest.raises(InputError, match="models/mine: is a model of gemma3 with other inputs than text"):
        check_family(CONFIG_MAPPING["gemma3"](), "models/mine")


def test_a_model_too_wide_for_this_machine_is_left_alone():
    """Two layers of this width would take over 100 GB: the test ends only if they are not made."""
    wide = AutoConfig.for_model("llama", hidden_size=65_536, num_hidden_layers=80)
    check_family(wide, "wide")


def test_a_shift_of_positions_is_seen():
    """The oracle can fail: positions that count the padding differ from those of a row alone."""
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(config_of("gpt2"), dtype=torch.float32)
    assert largest_gap(lm) < 1e-3
    plain = lm.forward
    lm.forward = lambda inputs_embeds, use_cache: plain(
        inputs_embeds=inputs_embeds, position_ids=torch.arange(inputs_embeds.shape[1])[None] + 1
    )
    assert largest_gap(lm) > 0.05
