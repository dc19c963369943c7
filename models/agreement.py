"""Whether a language model samples from the distribution that it is trained on.

Sampling reads token by token behind a key-value cache, with padding at the left and rows taken out as they end;
training reads whole rows. A family that keeps a state instead of keys and values, or that ignores positions, gives
other log-probabilities in the one than in the other, and PPO would learn from their difference without a word.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PretrainedConfig

from metrics.errors import InputError
from models.generation import generate

WORDS = 64  # vocabulary of the small model that is checked
MOST_PARAMETERS = 500_000_000  # of the small model, which each rank makes: 2 GB
SPREAD = 3.0  # random weights are made so much larger: close to zero, faults are not seen
TOLERANCE = 1e-2  # nats; families that agree do so within 1e-4, others differ by tenths and more
LENGTHS, NEW = (3, 5, 8), 6  # tokens of the prompts, of which two are padded, and new tokens
SUPPORTED = "causal language models that keep keys and values of every token (GPT-2, Llama, Qwen, Gemma, Mistral, Phi)"


def check_family(config: PretrainedConfig, name: str) -> None:
    """Refuses a model whose sampling and training differ, or that this project cannot read, by InputError.

    A model of the same architecture with few layers, few words and random weights is tried on one small batch: a second
    or two, and no gigabytes. Models too wide for that are not checked.
    """
    if config.get_text_config(decoder=True) is not config:
        raise InputError(
            f"{name}: is a model of {config.model_type} with other inputs than text; give its language model alone, "
            f"saved as a model of its own: {SUPPORTED}"
        )
    try:
        small = _few_layers(config)
        with torch.device("meta"):
            lm = AutoModelForCausalLM.from_config(small)
    except Exception as error:  # whatever a family's own code raises for a shape that it does not like
        raise _refusal(config, name, f"cannot be made with few layers ({type(error).__name__}: {error})") from error
    if (width := lm.get_input_embeddings().weight.shape[1]) != config.hidden_size:
        what = f"has embeddings of width {width} and states of width {config.hidden_size}, which must be the same here"
        raise _refusal(config, name, what)
    if sum(p.numel() for p in lm.parameters()) > MOST_PARAMETERS:
        return
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            gap = largest_gap(AutoModelForCausalLM.from_config(small, dtype=torch.float32))
    except Exception as error:  # no cache, another one, no input embeddings: each family fails in its own way
        raise _refusal(config, name, f"cannot be sampled from here ({type(error).__name__})") from error
    if not gap < TOLERANCE:
        raise _refusal(config, name, f"samples from another distribution than it is trained on (by {gap:.2g} nats)")


def _refusal(config: PretrainedConfig, name: str, what: str) -> InputError:
    first = what.splitlines()[0][:200]
    return InputError(f"{name}: a model of the family {config.model_type} {first}; supported are {SUPPORTED}")


@torch.no_grad()
def largest_gap(lm: nn.Module) -> float:
    """The largest difference of a token's log-probability between sampling and reading again, each row alone."""
    lm.eval()
    for parameter in lm.parameters():
        if parameter.dim() > 1:
            parameter.mul_(SPREAD)
    words = lm.get_input_embeddings().num_embeddings
    longest = max(LENGTHS)
    prompt_BP = torch.randint(words, (len(LENGTHS), longest))
    mask_BP = torch.tensor([[0] * (longest - length) + [1] * length for length in LENGTHS])
    uniform_BT = torch.rand(len(LENGTHS), NEW)
    embedded_BPW = lm.get_input_embeddings()(prompt_BP)
    whole = generate(lm, embedded_BPW, mask_BP, -1, 0, NEW, uniform_BT)
    end = int(whole.response_BT[0, 1])  # so that the first row ends early and is taken out
    gaps = [_gap(lm, prompt_BP, made) for made in (whole, generate(lm, embedded_BPW, mask_BP, end, 0, NEW, uniform_BT))]
    return max(gaps)


def _gap(lm: nn.Module, prompt_BP: Tensor, made) -> float:  # noqa: ANN001 - models.sampling.Generated
    gaps = []
    for row, length in enumerate(LENGTHS):
        written_T = made.response_BT[row][made.mask_BT[row] > 0]
        text_1S = torch.cat([prompt_BP[row, -length:], written_T])[None]
        logits_SV = lm(inputs_embeds=lm.get_input_embeddings()(text_1S), use_cache=False).logits[0].float()
        log_prob_TV = F.log_softmax(logits_SV[length - 1 : -1], dim=-1)
        read_T = log_prob_TV.gather(1, written_T[:, None])[:, 0]
        gaps.append((read_T - made.log_prob_BT[row, : len(written_T)]).abs().max())
    return float(torch.stack(gaps).max())


def _few_layers(config: PretrainedConfig) -> PretrainedConfig:
    """The config with at least one layer of each kind and no more than are needed for that, and with few words."""
    small = copy.deepcopy(config)
    kinds = list(getattr(config, "layer_types", None) or [])
    needed = max([2, *(kinds.index(kind) + 1 for kind in set(kinds))])
    layers = min(needed, config.num_hidden_layers)
    small.num_hidden_layers = layers
    if kinds:
        small.layer_types = kinds[:layers]
    small.vocab_size = min(config.vocab_size, WORDS)
    for token in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(small, token, None)
    return small
