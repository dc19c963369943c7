"""Scores of texts under pre-trained models: BERTScore, sentence similarity, perplexity, BARTScore.

Each function scores one batch. A record's score can depend, in its last digits, on the padding of its batch, so callers
keep the batches the same whatever the number of ranks.
"""

# B texts · S tokens · D width

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from metrics.errors import InputError

KINDS: dict[str, Any] = {"encoder": AutoModel, "lm": AutoModelForCausalLM, "bart": AutoModelForSeq2SeqLM}


def load(kind: str, name: str) -> tuple[Any, Any]:
    """(model, tokenizer) of a Hugging Face folder or name, in float32 and evaluation mode; `kind` as in KINDS.

    The model is on this rank's GPU where there is one.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model = KINDS[kind].from_pretrained(name, trust_remote_code=False, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"no {kind} can be read from {name} ({first}); give a Hugging Face folder or name.") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval().to(_device()), tokenizer


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def signature(name: str) -> str:
    """Name, hash of the weights where they lie in a folder, and version of the library."""
    files = sorted(Path(name).glob("*.safetensors")) + sorted(Path(name).glob("*.bin"))
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    weights = f"|sha256:{digest.hexdigest()[:12]}" if files else ""
    return f"{Path(name).name}{weights}|transformers:{transformers.__version__}"


@torch.inference_mode()
def encoder_scores(
    model: Any, tokenizer: Any, texts: Sequence[str], references: Sequence[str], layer: int
) -> list[list[float]]:
    """[BERTScore F, R, P, cosine of mean vectors, texts cut] of each record.

    BERTScore (Zhang et al. 2020) as its package computes it without idf: each ordinary token is matched with the most
    similar token of the other text, special ones included; hidden states of `layer` (-1: the last). The cosine is
    between means over all tokens of the last layer, as sentence encoders are trained. An empty text scores 0.
    """
    ours, theirs = (_hidden(model, tokenizer, side, layer) for side in (texts, references))
    similar_BST = F.normalize(ours.layer_BSD, dim=-1) @ F.normalize(theirs.layer_BSD, dim=-1).transpose(1, 2)
    similar_BST = similar_BST.masked_fill(~(ours.given_BS[:, :, None] & theirs.given_BS[:, None, :]), -torch.inf)
    empty_B = ~(ours.word_BS.any(1) & theirs.word_BS.any(1))
    p_B = _mean(similar_BST.amax(2), ours.word_BS).masked_fill(empty_B, 0.0)
    r_B = _mean(similar_BST.amax(1), theirs.word_BS).masked_fill(empty_B, 0.0)
    f_B = (2 * p_B * r_B / (p_B + r_B)).nan_to_num()
    cosine_B = F.cosine_similarity(ours.mean_BD, theirs.mean_BD).masked_fill(empty_B, 0.0)
    return torch.stack([f_B, r_B, p_B, cosine_B, ours.cut_B + theirs.cut_B], dim=1).tolist()


class _Hidden(NamedTuple):
    layer_BSD: Tensor
    mean_BD: Tensor
    given_BS: Tensor  # tokens, not padding
    word_BS: Tensor  # of these the ordinary ones
    cut_B: Tensor  # 1 where the text was too long for the model


def _hidden(model: Any, tokenizer: Any, texts: Sequence[str], layer: int) -> _Hidden:
    batch, cut_B = _encoded(model, tokenizer, [text.strip() for text in texts])
    output = model(**batch, output_hidden_states=True)
    given_BS = batch["attention_mask"].bool()
    frame = [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    # An unknown word is a word.
    framing = torch.tensor([id_ for id_ in frame if id_ is not None], dtype=torch.long, device=given_BS.device)
    word_BS = given_BS & ~torch.isin(batch["input_ids"], framing)
    last_BSD = output.last_hidden_state
    mean_BD = (last_BSD * given_BS[..., None]).sum(1) / given_BS.sum(1, keepdim=True)
    return _Hidden(output.hidden_states[layer], mean_BD, given_BS, word_BS, cut_B)


def _mean(values_BS: Tensor, counted_BS: Tensor) -> Tensor:
    return values_BS.masked_fill(~counted_BS, 0.0).sum(1) / counted_BS.sum(1).clamp(min=1)


@torch.inference_mode()
def log_likelihoods(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[list[float]]:
    """[sum of -log P of the tokens, tokens, texts cut] of each text under a causal language model.

    Every token is predicted, the first from the start token; a tokenizer that has none leaves the first out.
    """
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    begin = [] if start is None else [start]
    longest = _positions(model)
    rows = [begin + tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    cut_B = [float(len(row) > longest) for row in rows]
    rows = [row[:longest] or [tokenizer.pad_token_id] for row in rows]
    width = max(map(len, rows))
    padded = [row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows]
    ids_BS = torch.tensor(padded, device=model.device)
    length_B = torch.tensor([len(row) for row in rows], device=model.device)
    mask_BS = torch.arange(width, device=model.device) < length_B[:, None]
    logits_BSV = model(input_ids=ids_BS, attention_mask=mask_BS.long()).logits[:, :-1]
    loss_BS = F.cross_entropy(logits_BSV.transpose(1, 2), ids_BS[:, 1:], reduction="none")
    counted_BS = mask_BS[:, 1:]
    sums_B = (loss_BS * counted_BS).double().sum(1)
    return torch.stack([sums_B, counted_BS.sum(1).double(), torch.tensor(cut_B).to(sums_B)], dim=1).tolist()


@torch.inference_mode()
def last_states(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[list[float]]:
    """The last hidden state at the last token of each text, [D]: MAUVE's features (Pillutla et al. 2021)."""
    batch, _ = _encoded(model, tokenizer, [text or tokenizer.eos_token for text in texts])
    hidden_BSD = model(**batch, output_hidden_states=True).hidden_states[-1]
    last_B = batch["attention_mask"].sum(1).clamp(min=1) - 1
    return hidden_BSD[torch.arange(len(texts), device=last_B.device), last_B].tolist()


@torch.inference_mode()
def bart_scores(model: Any, tokenizer: Any, texts: Sequence[str], references: Sequence[str]) -> list[list[float]]:
    """[mean log P(reference | text), mean log P(text | reference), texts cut] of each record (Yuan et al. 2021).

    The mean is over the tokens of what is predicted, its end token included.
    """
    forth, cut_forth = _given(model, tokenizer, texts, references)
    back, cut_back = _given(model, tokenizer, references, texts)
    return torch.stack([forth, back, cut_forth + cut_back], dim=1).tolist()


@torch.inference_mode()
def complete(model: Any, tokenizer: Any, prompt: str, max_tokens: int) -> tuple[str, int, int]:
    """(answer, tokens of the prompt, tokens of the answer) of a causal language model, greedily.

    The prompt goes through the tokenizer's chat template where it has one. Raises InputError for a prompt that leaves
    no room for an answer.
    """
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": prompt}]
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    batch = tokenizer(prompt, return_tensors="pt", add_special_tokens=not tokenizer.chat_template).to(model.device)
    asked = batch["input_ids"].shape[1]
    if asked + max_tokens > _positions(model):
        raise InputError(
            f"a prompt of {asked} tokens and an answer of {max_tokens} exceed the {_positions(model)} of the model; "
            "take a shorter prompt file or another model."
        )
    ids = model.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        do_sample=False,
        max_new_tokens=max_tokens,
        pad_token_id=tokenizer.pad_token_id,
    )[0, asked:]
    return tokenizer.decode(ids, skip_special_tokens=True), asked, len(ids)


def _given(model: Any, tokenizer: Any, sources: Sequence[str], targets: Sequence[str]) -> tuple[Tensor, Tensor]:
    batch, cut_sources = _encoded(model, tokenizer, list(sources))
    target, cut_targets = _encoded(model, tokenizer, list(targets))
    counted_BS = target["attention_mask"].bool()
    labels_BS = target["input_ids"].masked_fill(~counted_BS, -100)
    logits_BSV = model(**batch, labels=labels_BS).logits
    loss_BS = F.cross_entropy(logits_BSV.transpose(1, 2), labels_BS, reduction="none", ignore_index=-100)
    return -loss_BS.sum(1) / counted_BS.sum(1).clamp(min=1), cut_sources + cut_targets


def _encoded(model: Any, tokenizer: Any, texts: list[str]) -> tuple[dict[str, Tensor], Tensor]:
    """Token ids and mask, padded at the right, and which texts had to be cut."""
    longest = _positions(model)
    full = tokenizer(texts, add_special_tokens=True, verbose=False)["input_ids"]
    batch = tokenizer(
        texts, padding=True, padding_side="right", truncation=True, max_length=longest, return_tensors="pt"
    )
    cut_B = torch.tensor([float(len(ids) > longest) for ids in full], device=model.device)
    return {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}, cut_B


def _positions(model: Any) -> int:
    """The longest input of a model; RoBERTa's first positions are those after the padding's."""
    config = model.config
    if config.model_type in ("roberta", "xlm-roberta", "camembert"):
        return config.max_position_embeddings - config.pad_token_id - 1
    return getattr(config, "max_position_embeddings", None) or 512
