"""The causal language model: read from a Hugging Face name or folder, or created in place when none is named."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import resolve_revision

from metrics.errors import InputError
from models.kernels import with_faster_kernels
from models.weight_fit import refuse_gaps

PLAIN_FAMILIES = {"gpt2", "llama", "qwen2", "qwen3"}  # whose networks are known: see `attends_plainly`
ALIGNED = 64  # columns: a multiple of it suits the kernels for matrix products
NO_CHANCE = -3e4  # as a logit, in any precision
IN_PLACE = Path("explanation", "base")  # of a run folder: the model that is made where none is named
SPECIAL = PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"


@dataclass(frozen=True)
class NewModelConfig:
    """Size of the language model that is created when none is named."""

    width: int = field(default=128, metadata={"help": "width of the hidden states"})
    layers: int = field(default=3, metadata={"help": "transformer blocks"})
    heads: int = field(default=4, metadata={"help": "attention heads"})
    vocabulary: int = field(default=4096, metadata={"help": "most entries of the tokenizer trained on the train split"})
    dropout: float = field(default=0.0, metadata={"help": "dropout everywhere"})

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise InputError(f"width={self.width} is not a multiple of heads={self.heads}")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters instead of full fine-tuning."""

    rank: int = field(default=0, metadata={"help": "rank of the adapters; 0 trains all weights"})
    alpha: int = field(default=32, metadata={"help": "scale of the adapters, times 1/rank"})
    dropout: float = field(default=0.05, metadata={"help": "dropout before the adapters"})
    targets: str = field(default="all-linear", metadata={"help": "module names, comma separated, or all-linear"})

    def __post_init__(self) -> None:
        if self.rank < 0 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise InputError(
                f"lora.rank={self.rank}, lora.alpha={self.alpha}, lora.dropout={self.dropout}: "
                "must be at least 0, above 0, and in [0, 1)"
            )


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the four special tokens first, in this order."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, unk_token=UNK, padding_side="left"
    )


def new_gpt2_config(config: NewModelConfig, vocabulary: int, positions: int) -> GPT2Config:
    """The shape of a GPT-2 that is created in place; the special tokens are the first of its vocabulary."""
    return GPT2Config(
        vocab_size=vocabulary,
        n_positions=positions,
        n_embd=config.width,
        n_layer=config.layers,
        n_head=config.heads,
        resid_pdrop=config.dropout,
        embd_pdrop=config.dropout,
        attn_pdrop=config.dropout,
        pad_token_id=SPECIAL.index(PAD),
        bos_token_id=SPECIAL.index(BOS),
        eos_token_id=SPECIAL.index(EOS),
    )


def create_language_model(
    texts: Iterable[str], config: NewModelConfig, positions: int, folder: Path, seed: int
) -> None:
    """Writes a random GPT-2 of the given size with its tokenizer as a Hugging Face folder."""
    tokenizer = train_tokenizer(texts, config.vocabulary)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(new_gpt2_config(config, len(tokenizer), positions))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; pads with the end token where it has no padding token."""
    tokenizer = _load(AutoTokenizer, name)
    if tokenizer.eos_token_id is None:
        raise InputError(f"{name}: the tokenizer has no end token; set eos_token in its tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_language_model(name: str, lora: LoraConfig | None = None) -> PreTrainedModel | PeftModel:
    """A causal LM in float32 from a Hugging Face name or folder.

    A folder that holds adapters (`adapter_config.json`) is read as its base model plus those adapters, trainable.
    """
    if base := base_of_adapters(name):
        return PeftModel.from_pretrained(_causal_lm(base), name, is_trainable=True)
    model = _causal_lm(name)
    return with_adapters(model, lora, commit_of(name)) if lora is not None else model


def _causal_lm(name: str) -> PreTrainedModel:
    # Without dtype the saved one is kept, and a bfloat16 checkpoint would be trained without float32 master weights.
    model = _load(AutoModelForCausalLM, name, dtype=torch.float32)
    if share := getattr(model.config, "layerdrop", 0.0):
        raise InputError(
            f"{name}: drops a share of {share} of its layers at random, on each rank others, and gradients of unlike "
            "layers would be added up; set layerdrop to 0 in its config.json"
        )
    return with_faster_kernels(model)


def model_config(name: str) -> PretrainedConfig:
    """The config of a model, or of the one that a folder of adapters is for."""
    return _load(AutoConfig, base_of_adapters(name) or name)


def load_trunk(name: str, layers: int) -> PreTrainedModel:
    """The first `layers` blocks of a causal LM, in float32, all of which learn; adapters in the folder are merged."""
    base = base_of_adapters(name)
    config = _load(AutoConfig, base or name)
    config.num_hidden_layers = min(layers, config.num_hidden_layers)
    if kinds := getattr(config, "layer_types", None):  # Qwen, Gemma: one a block, refused where there are more
        config.layer_types = kinds[: config.num_hidden_layers]
    if not base:
        return with_faster_kernels(_load(AutoModel, name, config=config, dtype=torch.float32))
    lm = _load(AutoModelForCausalLM, base, config=config, dtype=torch.float32)
    trunk = PeftModel.from_pretrained(lm, name).merge_and_unload().base_model
    return with_faster_kernels(trunk.requires_grad_(True))  # PEFT froze it, and a trunk that is frozen learns nothing


def base_of_adapters(name: str) -> str:
    """The model, with its revision, that a folder of adapters is for; "" where the folder holds a whole model."""
    if not (Path(name) / "adapter_config.json").is_file():
        return ""
    try:
        saved = PeftConfig.from_pretrained(name)
    except Exception as error:  # a file that is damaged, or of another kind of adapters, fails in many ways
        raise InputError(f"{name}/adapter_config.json: cannot be read ({first_line(error)}); copy it anew") from error
    if not saved.base_model_name_or_path:
        raise InputError(f"{name}/adapter_config.json: has no base_model_name_or_path, the model that its adapters fit")
    if not Path(saved.base_model_name_or_path).is_absolute():
        return saved.base_model_name_or_path + (f"@{saved.revision}" if saved.revision else "")
    return _base_folder(Path(name), Path(saved.base_model_name_or_path))


def _base_folder(adapters: Path, told: Path) -> str:
    """Where the base model of adapters is now: a run folder that is moved takes one that was made in place along."""
    places = [told]
    if told.match(str(IN_PLACE)):
        places += [above / IN_PLACE for above in adapters.resolve().parents]
    found = {place.resolve() for place in places if place.is_dir()}
    if len(found) == 1:
        return str(*found)
    remedy = f"{'take the wrong one away' if found else 'bring it back'}, or write where it is into adapter_config.json"
    where = f"is {' or '.join(sorted(map(str, found)))}" if found else f"was {told}, which is gone"
    raise InputError(f"{adapters}: the model that its adapters were trained on {where}; {remedy}")


def with_adapters(model: PreTrainedModel, lora: LoraConfig, commit: str | None = None) -> PreTrainedModel | PeftModel:
    """The model with fresh adapters, its own weights frozen; as it is where the rank is 0."""
    if lora.rank == 0:
        return model
    targets = lora.targets if lora.targets == "all-linear" else _present(lora.targets.split(","), model)
    adapters = PeftConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        revision=commit,  # adapters fit no other weights than those they were trained on
    )
    return get_peft_model(model, adapters)


def _present(targets: list[str], model: nn.Module) -> list[str]:
    """The names of modules without the blanks around them. PEFT passes over those that the model does not have."""
    known = {
        name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))
    }
    targets = [target.strip() for target in targets]
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name, _ in model.named_modules()) or not target:
            raise InputError(
                f"explanation.lora.targets: the language model has no module {target!r}; use all-linear or names of "
                f"{', '.join(sorted(known))}"
            )
    return targets


def trunk_of(lm: nn.Module) -> nn.Module:
    """The blocks below the head: their last hidden states are what `head_logits` takes."""
    return _plain(lm).base_model


def sees_all(config: PretrainedConfig) -> bool:
    """Whether every layer attends to the whole text before a token: none has a window or a state instead."""
    return set(getattr(config, "layer_types", None) or ["full_attention"]) <= {"full_attention"}


def attends_plainly(config: PretrainedConfig) -> bool:
    """Whether a model has nothing but causal attention to all, and its forward pass never asks a GPU for a number.

    Rotations that depend on the length of the text look at it.
    """
    rotation = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    return config.model_type in PLAIN_FAMILIES and sees_all(config) and rotation not in ("dynamic", "longrope")


def head_logits(lm: nn.Module, hidden_nW: Tensor) -> Tensor:
    """Logits [n, V] of hidden states, with the scaling or capping that some families put behind their head.

    On a GPU there may be more columns than words: see `aligned_head`.
    """
    head, config = _plain(lm).get_output_embeddings(), _plain(lm).config
    if hidden_nW.is_cuda and (aligned := aligned_head(lm)):
        return F.linear(hidden_nW, *aligned)
    logits_nV = head(hidden_nW)
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits_nV = logits_nV * scale
    if scale := getattr(config, "logits_scaling", None):  # Granite
        logits_nV = logits_nV / scale
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
        logits_nV = (logits_nV / cap).tanh() * cap
    return logits_nV


def aligned_head(lm: nn.Module) -> tuple[Tensor, Tensor] | None:
    """The head's weight and bias and, up to a multiple of ALIGNED, words that have no chance; None if it needs none.

    GPT-2 has 50,257 words, an odd number: the kernels for such rows took eight times as long (benchmarks/NOTES.md).
    """
    head, config = _plain(lm).get_output_embeddings(), _plain(lm).config
    # An adapter around the head, and ZeRO-3, which gathers the weight, are in the layer's own call.
    plain = config.model_type in PLAIN_FAMILIES and isinstance(head, nn.Linear) and not hasattr(head.weight, "ds_id")
    more = -len(head.weight) % ALIGNED
    if not plain or not more:
        return None
    bias_V = head.weight.new_zeros(len(head.weight)) if head.bias is None else head.bias
    return F.pad(head.weight, (0, 0, 0, more)), F.pad(bias_V, (0, more), value=NO_CHANCE)


def _plain(lm: nn.Module) -> PreTrainedModel:
    return lm.get_base_model() if isinstance(lm, PeftModel) else lm


def check_context(lm: nn.Module, prompt_tokens: int, new_tokens: int) -> None:
    """Refuses prompts and responses that together are longer than the model's context."""
    check_positions(_plain(lm).config, prompt_tokens, new_tokens)


def check_positions(config: PretrainedConfig, prompt_tokens: int, new_tokens: int) -> None:
    """`check_context` by the config alone, before the model is read."""
    room = getattr(config.get_text_config(), "max_position_embeddings", None)
    if room and prompt_tokens + new_tokens > room:
        raise InputError(
            f"prompt.max_prompt_tokens={prompt_tokens} and prompt.max_new_tokens={new_tokens} make more than the "
            f"{room} positions of the language model; lower one of them"
        )


def at_revision(name: str) -> tuple[str, str]:
    """(Hugging Face name, the revision behind its `@`, or main); the name of a folder is taken as it is."""
    place, _, revision = name.partition("@")
    return (place, revision) if revision and not Path(name).exists() else (name, "main")


def commit_of(name: str) -> str | None:
    """The commit that a name of the Hugging Face hub stands for now; None for a folder."""
    return getattr(resolve_revision(*at_revision(name)), "resolved", None)


def _load(kind: type, name: str, **options: object):  # noqa: ANN202 - whatever the Auto class returns
    place, revision = at_revision(name)
    if Path(place).is_dir():
        place = str(Path(place).resolve())  # adapters remember it, and may be read from another working directory
    reads_weights = kind in (AutoModel, AutoModelForCausalLM)
    # Configs and tokenizers of damaged files fail in many ways; where weights are read, a lack of memory is no mistake.
    failures = (OSError, ValueError) if reads_weights else Exception
    report = {"output_loading_info": True, "ignore_mismatched_sizes": True} if reads_weights else {}
    try:
        read = kind.from_pretrained(place, revision=revision, trust_remote_code=False, **options, **report)  # type: ignore[attr-defined]
    except failures as error:
        raise InputError(
            f"cannot read a model from {name!r} ({first_line(error)}); give a folder or a Hugging Face name"
        ) from error
    if not reads_weights:
        return read
    model, gaps = read
    refuse_gaps(name, gaps)
    return model


def first_line(error: Exception) -> str:
    """What a library says of a fault, without its advice."""
    first, *more = (str(error).strip() or type(error).__name__).splitlines()
    return f"{first} {more[0].strip()}" if more and first.endswith(":") else first
