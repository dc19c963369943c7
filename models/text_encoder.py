"""The BERT-class encoder behind the concept-consistency reward (CCR), and its contrastive loss (methods A.5.5).

B texts, S tokens, D width.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerBase

from metrics.errors import InputError
from models.kernels import with_faster_kernels
from models.language_model import (
    PAD,
    SPECIAL,
    NewModelConfig,
    at_revision,
    first_line,
    train_tokenizer,
)
from models.packed import packs_by_runs, states_of_texts
from models.weight_fit import refuse_gaps


class TextEncoder(nn.Module):
    """f(text): the mean of the last hidden states over all tokens but padding and special ones, at length 1."""

    def __init__(self, model: nn.Module, special_ids: list[int]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("special", torch.tensor(special_ids, dtype=torch.long), persistent=False)

    def forward(self, ids_BS: Tensor, mask_BS: Tensor) -> Tensor:
        """Embeddings [B, D] of unit length. A text without any ordinary token gets zeros: its cosine is 0."""
        if packs_by_runs(self.model, ids_BS):
            row_m, column_m, hidden_mD = states_of_texts(self.model, ids_BS, mask_BS)
            counted_m1 = ~torch.isin(ids_BS[row_m, column_m], self.special)[:, None]
            none_BD = hidden_mD.new_zeros(len(ids_BS), hidden_mD.shape[1], dtype=torch.float32)
            total_BD = none_BD.index_add(0, row_m, (hidden_mD * counted_m1).float()).to(hidden_mD.dtype)
        else:
            hidden_BSD = self.model(input_ids=ids_BS, attention_mask=mask_BS).last_hidden_state
            counted_BS = mask_BS.bool() & ~torch.isin(ids_BS, self.special)
            total_BD = (hidden_BSD * counted_BS[..., None]).sum(1)
        return F.normalize(total_BD, dim=-1)  # a sum has the direction of the mean


def info_nce(text_BD: Tensor, concepts_BD: Tensor, temperature: float) -> Tensor:
    """Sum over rows of both directions' contrastive losses, all other rows being negatives.

    -log softmax_j(cos(e_i, C_j) / tau)_i  and the same from concepts to texts, averaged over the two directions.
    Embeddings have unit length.
    """
    similarity_BB = text_BD @ concepts_BD.T / temperature
    target_B = torch.arange(len(text_BD), device=text_BD.device)
    forth = F.cross_entropy(similarity_BB, target_B, reduction="sum")
    back = F.cross_entropy(similarity_BB.T, target_B, reduction="sum")
    return (forth + back) / 2


def new_bert_config(config: NewModelConfig, vocabulary: int) -> BertConfig:
    """The shape of a BERT that is created in place."""
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=4 * config.width,
        max_position_embeddings=128,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        pad_token_id=SPECIAL.index(PAD),
    )


def create_encoder(texts: list[str], config: NewModelConfig, folder: Path, seed: int) -> None:
    """Writes a random BERT of the given size with a tokenizer trained on `texts` as a Hugging Face folder."""
    tokenizer = train_tokenizer(texts, config.vocabulary)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BertModel(new_bert_config(config, len(tokenizer)), add_pooling_layer=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load_encoder_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of an encoder, by Hugging Face name or folder."""
    place, revision = at_revision(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=False)
    except Exception as error:  # damaged files fail in many ways
        raise _unreadable(name, error) from error
    if tokenizer.pad_token_id is None:
        raise InputError(f"{name}: the tokenizer has no padding token; set pad_token in its tokenizer_config.json")
    return tokenizer


def load_encoder(name: str) -> tuple[TextEncoder, PreTrainedTokenizerBase]:
    """A BERT-class encoder in float32 with its tokenizer, by Hugging Face name or folder."""
    tokenizer = load_encoder_tokenizer(name)
    place, revision = at_revision(name)
    try:
        model, gaps = AutoModel.from_pretrained(
            place,
            revision=revision,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told by `refuse_gaps`
        )
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error
    refuse_gaps(name, gaps)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # unused here; where a checkpoint has none it would be drawn at random
    return TextEncoder(with_faster_kernels(model), tokenizer.all_special_ids), tokenizer


def _unreadable(name: str, error: Exception) -> InputError:
    return InputError(f"cannot read an encoder from {name!r} ({first_line(error)}); give a folder or a hub name")
