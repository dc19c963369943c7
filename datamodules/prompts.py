"""Personalised prompts x_uv = [I, p_u, q_v, s_uv, C_uv] (methods A.2, A.5.4) as batches of token ids and slots.

B batch, P prompt tokens, T response tokens, D width of node states. Prompts are padded on the left and responses on the
right, in training and generation alike: the response then begins at the same column P in every row.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from datamodules.batches import Draw
from datamodules.corpus import Corpus
from datamodules.evidence import Evidence
from metrics.errors import InputError

ROWS_A_PART = 64  # so many rows at least are read together, see `PromptBatch.parts`
TEXT, USER, ITEM, SENTIMENT = range(4)  # what stands in a slot: a token, or a soft vector


@dataclass(frozen=True)
class PromptConfig:
    """The prompt's wording and limits."""

    instruction: str = field(default="explain the rating :", metadata={"help": "I, the words before the soft vectors"})
    max_prompt_tokens: int = field(default=64, metadata={"help": "longest prompt; candidates are cut from its end"})
    max_new_tokens: int = field(default=32, metadata={"help": "longest explanation in tokens, end token included"})

    def __post_init__(self) -> None:
        if self.max_prompt_tokens < 8 or self.max_new_tokens < 2:
            raise InputError(
                f"max_prompt_tokens={self.max_prompt_tokens} and max_new_tokens={self.max_new_tokens}: "
                "use at least 8 and 2"
            )


@dataclass
class PromptBatch:
    """Prompts of B records and, in training, their explanations."""

    prompt_BP: Tensor  # token ids; 0 where the slot holds a soft vector or padding
    slot_BP: Tensor  # TEXT, USER, ITEM or SENTIMENT
    prompt_mask_BP: Tensor  # 1 on slots, 0 on the padding at the left
    response_BT: Tensor  # token ids of the explanation and the end token; padding at the right
    response_mask_BT: Tensor  # 1 on explanation and end token: the loss mask
    user_BD: Tensor  # node state behind p_u
    item_BD: Tensor  # node state behind q_v
    sentiment_B: Tensor  # 0 negative, 1 neutral, 2 positive: of the predicted rating
    record_B: Tensor
    weight_B: Tensor  # 1, or 0 for a row that only keeps the ranks in step
    scale: float  # see datamodules.batches
    parts: int = 1  # groups of rows of like length that are read one after the other: less memory, the same loss

    def __len__(self) -> int:
        return len(self.record_B)

    def rows(self, index_M: Tensor) -> "PromptBatch":
        """The rows of `index_M`, with the same scale."""
        return replace(self, **{n: v[index_M] for n, v in vars(self).items() if isinstance(v, Tensor)})


def text_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of text from outside. Special tokens written in it stay text: it cannot end or open a turn."""
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    forbidden = set(tokenizer.all_special_ids)
    return [i for i in ids if i not in forbidden]


class PromptBuilder:
    """Turns records into prompt batches."""

    def __init__(
        self, corpus: Corpus, evidence: Evidence, tokenizer: PreTrainedTokenizerBase, config: PromptConfig
    ) -> None:
        self.corpus, self.evidence, self.tokenizer, self.config = corpus, evidence, tokenizer, config
        self._instruction = text_tokens(tokenizer, config.instruction)
        self._concepts = [text_tokens(tokenizer, name) for name in corpus.concepts]
        self._comma = text_tokens(tokenizer, ",")
        self._first = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        fixed = len(self._instruction) + 3 + len(self._first)
        if fixed > config.max_prompt_tokens:
            raise InputError(
                f"prompt.instruction takes {fixed} slots and prompt.max_prompt_tokens={config.max_prompt_tokens}; "
                "shorten the instruction or raise the limit"
            )

    def prompt(self, record: int) -> tuple[list[int], list[int]]:
        """(token ids, slots) of one prompt, without padding."""
        ids = [*self._instruction, 0, 0, 0]
        slots = [TEXT] * len(self._instruction) + [USER, ITEM, SENTIMENT]
        room = self.config.max_prompt_tokens - len(ids) - len(self._first)
        listed: list[int] = []
        for concept in self.evidence.concept_RK[record].tolist():
            added = (self._comma if listed else []) + self._concepts[concept]
            if len(listed) + len(added) > room:
                break
            listed += added
        ids += listed + self._first
        return ids, slots + [TEXT] * (len(ids) - len(slots))

    def response(self, text: str) -> list[int]:
        """Token ids of an explanation and its end token; a text that is too long loses its end, and the end token."""
        ids = [*text_tokens(self.tokenizer, text), self.tokenizer.eos_token_id]
        return ids[: self.config.max_new_tokens]

    def batch(self, records: list[int], texts: list[str] | None, draw: Draw | None = None) -> PromptBatch:
        """The batch of `records`; `texts` are the explanations to learn, None for generation."""
        prompts = [self.prompt(record) for record in records]
        responses = [self.response(text) for text in texts] if texts is not None else [[] for _ in records]
        width, length = max(len(ids) for ids, _ in prompts), max(len(ids) for ids in responses)
        fill = self.tokenizer.pad_token_id
        record_B = torch.tensor(records, dtype=torch.long)
        user_BD, item_BD = self.evidence.states(record_B, self.corpus)
        return PromptBatch(
            prompt_BP=torch.tensor([[0] * (width - len(ids)) + ids for ids, _ in prompts], dtype=torch.long),
            slot_BP=torch.tensor([[TEXT] * (width - len(slots)) + slots for _, slots in prompts], dtype=torch.long),
            prompt_mask_BP=torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids, _ in prompts]),
            response_BT=torch.tensor([ids + [fill] * (length - len(ids)) for ids in responses], dtype=torch.long),
            response_mask_BT=torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids in responses]),
            user_BD=user_BD,
            item_BD=item_BD,
            sentiment_B=self.evidence.sentiment_R[record_B].long() + 1,
            record_B=record_B,
            weight_B=torch.ones(len(records)) if draw is None else torch.from_numpy(draw.weight_B),
            scale=1.0 if draw is None else draw.scale,
            parts=max(1, (len(records) if draw is None else draw.least) // ROWS_A_PART),
        )
