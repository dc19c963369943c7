"""Scoring explanations by both reward models: explanations a CPU second at one thread.

    python benchmarks/reward_speed.py EXPLANATIONS.jsonl.gz [--repeats 3]

Real explanations (JSON lines with `sentence` and `feature`), rollouts of 256 from 64 prompts with four samples, five
candidate concepts each; a BERT of 2 layers and a discriminator of 2, both 128 wide. The peer encodes explanation and
candidate list of every batch of 64 as it comes, padded to its longest row, as a reward function is usually written,
with the same weights in transformers' own layers. Each side has processes of its own: what a process allocated
before changes the peer's speed by a fifth.
"""

import argparse
import gzip
import json
import random
import sys
import tempfile
from pathlib import Path

import torch
from measuring import GPU, alternate, clock, emit, run_json
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from datamodules.contrastive import concept_text
from lightning_modules.ppo.rewards import Scorer
from models.discriminator import Discriminator, new_discriminator, sequence_reward
from models.language_model import NewModelConfig, create_language_model, load_tokenizer
from models.text_encoder import TextEncoder, create_encoder, load_encoder

ROLLOUT, SAMPLES, LENGTH, ROLLOUTS, PASSES = 256, 4, 32, 3, 4
SIDES = "llm2er", "llm2er, concepts new", "naive"
ENCODING = {
    "padding": True,
    "padding_side": "right",
    "truncation": True,
    "max_length": 64,
    "split_special_tokens": True,
    "return_tensors": "pt",
}


def _there(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    return [tensor.to("cuda" if GPU else "cpu") for tensor in tensors]


def embedded(encoder: TextEncoder, ids_BS: Tensor, mask_BS: Tensor) -> Tensor:
    """Embeddings of padded texts."""
    hidden_BSD = encoder.model(input_ids=ids_BS, attention_mask=mask_BS).last_hidden_state
    counted_BS = mask_BS.bool() & ~torch.isin(ids_BS, encoder.special)
    return torch.nn.functional.normalize((hidden_BSD * counted_BS[..., None]).sum(1), dim=-1)


@torch.no_grad()
def naive(
    scorer: Scorer,
    encoder: nn.Module,
    discriminator: nn.Module,
    response_BT: Tensor,
    mask_BT: Tensor,
    names: list[list[str]],
) -> tuple[Tensor, Tensor]:
    """Both rewards, batch by batch."""
    ccr, hqar = [], []
    for start in range(0, len(response_BT), 64):
        part = slice(start, start + 64)
        texts = scorer.policy_tokenizer.batch_decode(response_BT[part], skip_special_tokens=True)
        lists = [concept_text(found) for found in names[part]]
        batches = [scorer.encoder_tokenizer(rows, **ENCODING) for rows in (texts, lists)]
        said, about = (embedded(encoder, *_there((batch["input_ids"], batch["attention_mask"]))) for batch in batches)
        ccr.append((said * about).sum(-1))
        ids_BS = torch.nn.functional.pad(response_BT[part], (1, 0), value=discriminator.begin)
        hidden_BSD = discriminator.trunk(input_ids=ids_BS, use_cache=False).last_hidden_state
        logits_BT = discriminator.head(hidden_BSD[:, 1:]).squeeze(-1)
        hqar.append(sequence_reward(logits_BT, mask_BT[part], scorer.clip, scorer.reduce))
    return torch.cat(ccr), torch.cat(hqar)


def made(texts: list[str]) -> tuple[Scorer, tuple[nn.Module, nn.Module]]:
    """The scorer, and encoder and discriminator of the same weights in transformers' own layers."""
    size = NewModelConfig(layers=2, dropout=0.0)
    with tempfile.TemporaryDirectory() as folder:
        create_language_model(texts, size, 96, Path(folder) / "lm", 0)
        create_encoder(texts, size, Path(folder) / "bert", 0)
        tokenizer = load_tokenizer(f"{folder}/lm")
        discriminator = new_discriminator(f"{folder}/lm", 2, tokenizer.bos_token_id)
        encoder, encoder_tokenizer = load_encoder(f"{folder}/bert")
        plain_encoder = TextEncoder(AutoModel.from_pretrained(f"{folder}/bert"), encoder_tokenizer.all_special_ids)
        shape = AutoConfig.from_pretrained(f"{folder}/lm", num_hidden_layers=2)
        plain_trunk = AutoModel.from_pretrained(f"{folder}/lm", config=shape)
    plain_discriminator = Discriminator(plain_trunk, tokenizer.bos_token_id)
    plain_discriminator.load_state_dict(discriminator.state_dict())
    scorer = Scorer(encoder, encoder_tokenizer, discriminator, tokenizer, 0.01, "mean")
    plain = plain_encoder.eval(), plain_discriminator.eval()
    for model in (scorer, *plain):
        model.to("cuda" if GPU else "cpu")
    return scorer, plain


def rollout(scorer: Scorer, texts: list[str], concepts: list[str], draw: random.Random) -> tuple:
    """Texts as tokens, and the candidates of their prompts."""
    tokenizer = scorer.policy_tokenizer
    ids = [
        tokenizer(text)["input_ids"][: LENGTH - 1] + [tokenizer.eos_token_id] for text in draw.sample(texts, ROLLOUT)
    ]
    response_BT = torch.tensor([row + [tokenizer.pad_token_id] * (LENGTH - len(row)) for row in ids])
    mask_BT = torch.tensor([[1] * len(row) + [0] * (LENGTH - len(row)) for row in ids])
    names = [draw.sample(concepts, 5) for _ in range(ROLLOUT // SAMPLES)]
    return *_there((response_BT, mask_BT)), [names[i // SAMPLES] for i in range(ROLLOUT)]


def rate(side: str, scorer: Scorer, plain: tuple[nn.Module, nn.Module], rollouts: list[tuple]) -> float:
    """Explanations a second of the best pass after a warm-up."""
    rates = []
    for _ in range(1 + PASSES):
        begin = clock()
        if side == "llm2er, concepts new":
            scorer._concepts.clear()
        for given in rollouts:
            naive(scorer, *plain, *given) if side == "naive" else scorer.score(*given)
        rates.append(len(rollouts) * ROLLOUT / (clock() - begin))
    return max(rates[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("explanations")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=SIDES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with gzip.open(args.explanations, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    texts, concepts = [row["sentence"] for row in rows], sorted({row["feature"] for row in rows})
    (scorer, plain), draw = made(texts), random.Random(0)
    rollouts = [rollout(scorer, texts, concepts, draw) for _ in range(ROLLOUTS)]
    if args.side:
        print(json.dumps({"rate": rate(args.side, scorer, plain, rollouts)}))
        return
    for given in rollouts:  # the same numbers
        scores, (ccr_B, hqar_B) = scorer.score(*given), naive(scorer, *plain, *given)
        torch.testing.assert_close(scores.ccr_B, ccr_B, atol=1e-5, rtol=0)
        torch.testing.assert_close(scores.hqar_B, hqar_B, atol=1e-5, rtol=0)
    command = [sys.executable, __file__, args.explanations, "--side"]
    sides = {side: lambda side=side: run_json([*command, side])["rate"] for side in SIDES}
    emit("reward scoring", "explanations a second", alternate(sides, args.repeats), "llm2er", rollout=ROLLOUT)


if __name__ == "__main__":
    main()
