"""The explaining language model: prompts with soft vectors for user, item and sentiment (methods A.5.4).

B batch, P prompt tokens, T response tokens, n of them not masked, x with spare ones, V vocabulary, D width of node
states, W width of the language model.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from models.language_model import LoraConfig, head_logits, load_language_model, trunk_of
from models.log_probs import log_probs_and_entropy
from models.reading import Rows, read_rows

USER, ITEM, SENTIMENT = 1, 2, 3  # slots of a prompt that hold a soft vector; 0 holds a token


class Connector(nn.Module):
    """Projects node states into the language model's input space: Linear, GELU, Linear."""

    def __init__(self, node_width: int, model_width: int, scale: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(node_width), nn.Linear(node_width, model_width), nn.GELU(), nn.Linear(model_width, model_width)
        )
        # Soft vectors start as long as token embeddings are; longer ones would drown the prompt's words.
        nn.init.normal_(self.layers[3].weight, std=scale * (3.0 / model_width) ** 0.5)
        nn.init.zeros_(self.layers[3].bias)

    def forward(self, state_BD: Tensor) -> Tensor:
        """Soft vectors [B, W]."""
        return self.layers(state_BD.to(self.layers[1].weight.dtype))


@dataclass
class Reading:
    """What a model makes of given responses: of the n tokens that are not masked, in no particular order."""

    log_prob_BT: Tensor  # log pi(e_t | x, e_<t) in float32, zero where masked
    entropy_BT: Tensor  # of the distribution that each token was drawn from, in nats; no gradient unless asked for
    hidden_nW: Tensor  # last hidden states from which the tokens are predicted
    row_n: Tensor
    column_n: Tensor

    def spread(self, value_n: Tensor) -> Tensor:
        """Values of the n tokens at their places [B, T], zero where masked."""
        return torch.zeros_like(self.log_prob_BT).index_put((self.row_n, self.column_n), value_n.float())


class Explainer(nn.Module):
    """A causal LM and the connectors that put p_u, q_v and s_uv into its prompt."""

    def __init__(self, lm: nn.Module, node_width: int) -> None:
        super().__init__()
        self.lm = lm
        embedding = lm.get_input_embeddings()
        width, scale = embedding.weight.shape[1], float(embedding.weight.detach().std())
        self.node_width = node_width
        self.user = Connector(node_width, width, scale)
        self.item = Connector(node_width, width, scale)
        self.sentiment = nn.Embedding(3, width)
        nn.init.normal_(self.sentiment.weight, std=scale)

    def embed_prompt(
        self, prompt_BP: Tensor, slot_BP: Tensor, user_BD: Tensor, item_BD: Tensor, sentiment_B: Tensor
    ) -> Tensor:
        """Input embeddings [B, P, W]: tokens, with soft vectors where the slots say so."""
        embedded_BPW = self.lm.get_input_embeddings()(prompt_BP)
        soft = {USER: self.user(user_BD), ITEM: self.item(item_BD), SENTIMENT: self.sentiment(sentiment_B)}
        soft_BKW = torch.stack([soft[slot] for slot in sorted(soft)], dim=1).to(embedded_BPW.dtype)
        row_n, column_n = slot_BP.nonzero(as_tuple=True)
        soft_nW = soft_BKW[row_n, slot_BP[row_n, column_n] - 1]
        return embedded_BPW.index_put((row_n, column_n), soft_nW)

    def forward(
        self,
        prompt_BPW: Tensor,
        prompt_mask_BP: Tensor,
        response_BT: Tensor,
        response_mask_BT: Tensor,
        parts: int = 1,
        entropy_gradient: bool = False,
    ) -> Reading:
        """Reads [prompt, response]; the language model's head sees the tokens of responses and nothing else.

        `parts`: see `read_rows`; under ZeRO-3 it must be the same on every rank.
        """
        response_BTW = self.lm.get_input_embeddings()(response_BT)
        rows, read = Rows.of(prompt_BPW, prompt_mask_BP, response_BTW, response_mask_BT), []
        for hidden_xW, row_n, column_n in read_rows(trunk_of(self.lm), rows, parts):
            n = len(row_n)
            chosen_x = F.pad(response_BT[row_n, column_n], (0, len(hidden_xW) - n))
            log_prob_x, entropy_x = log_probs_and_entropy(head_logits(self.lm, hidden_xW), chosen_x, entropy_gradient)
            read.append((log_prob_x[:n], entropy_x[:n], hidden_xW[:n], row_n, column_n))
        log_prob_n, entropy_n, hidden_nW, row_n, column_n = (torch.cat(part) for part in zip(*read, strict=True))
        empty_BT = torch.zeros(response_BT.shape, device=log_prob_n.device)
        log_prob_BT, entropy_BT = (empty_BT.index_put((row_n, column_n), v) for v in (log_prob_n, entropy_n))
        return Reading(log_prob_BT, entropy_BT, hidden_nW, row_n, column_n)


def save_explainer(folder: Path, state: dict[str, Tensor], explainer: Explainer, tokenizer: object) -> None:
    """Writes an explainer from its gathered `state`: `lm/` (a Hugging Face folder, or adapters) and the connectors.

    `state` has the keys of `explainer.state_dict()`. Tied weights are written once.
    """
    lm_state = {name.removeprefix("lm."): value for name, value in state.items() if name.startswith("lm.")}
    explainer.lm.save_pretrained(folder / "lm", state_dict=lm_state)  # type: ignore[operator]
    tokenizer.save_pretrained(folder / "lm")  # type: ignore[attr-defined]
    connectors = {name: value for name, value in state.items() if not name.startswith("lm.")}
    save_file(connectors, folder / "connectors.safetensors")
    (folder / "explainer.json").write_text(json.dumps({"node_width": explainer.node_width}) + "\n")


def load_explainer(folder: Path) -> Explainer:
    """Reads what `save_explainer` wrote."""
    node_width = json.loads((folder / "explainer.json").read_text())["node_width"]
    explainer = Explainer(load_language_model(str(folder / "lm")), node_width)
    keys = explainer.load_state_dict(load_file(folder / "connectors.safetensors"), strict=False)
    missing = [name for name in keys.missing_keys if not name.startswith("lm.")]
    if missing or keys.unexpected_keys:
        raise RuntimeError(f"{folder}: weights of another model: lacks {missing}, has {keys.unexpected_keys}")
    return explainer


def new_explainer(model: str, node_width: int, lora: LoraConfig) -> Explainer:
    """An explainer on a language model by name or folder, with fresh connectors."""
    return Explainer(load_language_model(model, lora), node_width)
