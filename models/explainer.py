"""The explaining language model: prompts with soft vectors for user, item and sentiment (methods A.5.4).

B batch, P prompt tokens, T response tokens, V vocabulary, D width of node states, W width of the language model.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutputWithPast

from models.language_model import LoraConfig, load_language_model

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
        for slot, vector_BW in soft.items():
            embedded_BPW = torch.where(
                (slot_BP == slot)[..., None], vector_BW[:, None].to(embedded_BPW.dtype), embedded_BPW
            )
        return embedded_BPW

    def forward(
        self, prompt_BPW: Tensor, prompt_mask_BP: Tensor, response_BT: Tensor, response_mask_BT: Tensor
    ) -> CausalLMOutputWithPast:
        """Runs the language model over [prompt, response].

        `logits` are [B, T + 1, V]: column t predicts response token t, the last one what would follow; `hidden_states`
        hold the whole sequence. Logits of prompt positions are never computed.
        """
        response_BTW = self.lm.get_input_embeddings()(response_BT)
        mask_BS = torch.cat([prompt_mask_BP, response_mask_BT], dim=1)
        return self.lm(
            inputs_embeds=torch.cat([prompt_BPW, response_BTW], dim=1),
            attention_mask=mask_BS,
            position_ids=positions(mask_BS),
            logits_to_keep=response_BT.shape[1] + 1,
            output_hidden_states=True,
            use_cache=False,
        )


def positions(mask_BS: Tensor) -> Tensor:
    """Position ids under left padding: GPT-2's plain forward would count the padding, unlike its generation."""
    return (mask_BS.cumsum(-1) - 1).clamp(min=0)


def response_log_probs(logits_BTV: Tensor, response_BT: Tensor) -> Tensor:
    """log pi(e_t | x, e_<t) [B, T] in float32, without keeping a [B, T, V] table of log-probabilities."""
    logits_BTV = logits_BTV.float()
    chosen_BT = logits_BTV.gather(-1, response_BT[..., None])[..., 0]
    return chosen_BT - logits_BTV.logsumexp(-1)


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
