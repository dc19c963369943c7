"""How long a language model takes on this machine, timed on a few layers of it: what `dry_run=true` says of hours.

Layers are alike, so t(L) = t(1) + (L - 1) (t(k) - t(1)) / (k - 1), each t measured with the run's own widths,
vocabulary, rows and lengths, in random weights. A formula from operations and a rate is no substitute: what a narrow
layer loses outside of its products, and what a processor reaches in them, differ by factors (benchmarks/NOTES.md).
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig

from datamodules.prompts import ROWS_A_PART
from lightning_modules.fitting import FitConfig, trainable
from lightning_modules.ppo.config import PPOConfig
from lightning_modules.ppo.module import GENERATION_BATCH
from models.explainer import Explainer
from models.generation import generate
from models.kernels import with_faster_kernels
from models.language_model import LoraConfig, with_adapters

TIMED_LAYERS = 3
ROOM = 2**33  # bytes of weights and gradients that timing may take
ENOUGH = 1.0  # seconds after which a timing is not repeated


@dataclass(frozen=True)
class Work:
    """One batch of a rank: a row for each response."""

    prompt: int  # tokens
    responses: tuple[int, ...]  # tokens of each
    prompts: int = 0  # different prompts among the rows, where each has several samples; 0: as many as rows


@dataclass(frozen=True)
class Lengths:
    """Of prompts, all alike, and of responses, from the shortest to the longest; in tokens."""

    prompt: int
    responses: tuple[int, ...]

    def work(self, rows: int, prompts: int = 0) -> Work:
        """A batch of so many rows, as long as those here: what is short and what is long is read together."""
        places = [int((row + 0.5) / rows * len(self.responses)) for row in range(rows)]
        return Work(self.prompt, tuple(self.responses[place] for place in places), prompts)


class Timed:
    """A language model of few layers, and what it takes for a batch. Seconds of one thread on a CPU, else of the clock:
    a processor that others use, too, is no slower by them.
    """

    def __init__(self, config: PretrainedConfig, layers: int, lora: LoraConfig, device: str, bf16: bool) -> None:
        lm = AutoModelForCausalLM.from_config(_with_layers(config, layers), dtype=torch.float32)
        self.device = device
        self.explainer = Explainer(with_adapters(with_faster_kernels(lm), lora), 8).to(device).eval()
        # In bf16 the optimizer has weights of its own, as DeepSpeed keeps them.
        self.masters = [p.detach().clone() if bf16 else p for p in trainable(self.explainer)]
        self.optimizer = torch.optim.AdamW(self.masters, lr=0.0, fused=True)
        self.explainer.to(torch.bfloat16 if bf16 else torch.float32)

    def learning(self, work: Work) -> float:
        """Seconds of an optimizer step on a batch: forward, backward, update."""

        def step() -> None:
            self._read(work).sum().backward()
            learning = trainable(self.explainer)
            for master, parameter in zip(self.masters, learning, strict=True):
                master.grad = None if parameter.grad is None else parameter.grad.to(master.dtype)
            torch.nn.utils.clip_grad_norm_(self.masters, 1.0)
            self.optimizer.step()
            if self.masters[0] is not learning[0]:
                torch._foreach_copy_([parameter.detach() for parameter in learning], self.masters)
            self.explainer.zero_grad()

        return self._seconds(step)

    @torch.no_grad()
    def reading(self, work: Work) -> float:
        """Seconds of log-probabilities alone."""
        return self._seconds(lambda: self._read(work))

    @torch.no_grad()
    def sampling(self, work: Work) -> float:
        """Seconds of sampling the responses, all of mean length."""
        rows, length = len(work.responses), round(sum(work.responses) / len(work.responses))
        count = work.prompts or rows
        prompt_B = torch.arange(rows, device=self.device) % count
        uniform_BT = torch.rand(rows, length, dtype=torch.float64)

        def sample() -> None:
            embedded, mask = self._prompts(count, work.prompt)
            generate(self.explainer.lm, embedded, mask, -1, 0, length, uniform_BT, prompt_B)

        return self._seconds(sample)

    def _prompts(self, rows: int, length: int) -> tuple[Tensor, Tensor]:
        ids_BP = torch.ones(rows, length, dtype=torch.long, device=self.device)
        return self.explainer.lm.get_input_embeddings()(ids_BP), ids_BP

    def _read(self, work: Work) -> Tensor:
        length_B1 = torch.tensor(work.responses, device=self.device)[:, None]
        mask_BT = (torch.arange(max(work.responses), device=self.device) < length_B1).long()
        prompts, parts = self._prompts(len(mask_BT), work.prompt), max(1, len(mask_BT) // ROWS_A_PART)
        return self.explainer(*prompts, mask_BT, mask_BT, parts).log_prob_BT

    def _seconds(self, call: Callable[[], object]) -> float:
        """The best of up to four, behind a warm-up."""
        best, spent = float("inf"), 0.0
        for turn in range(5):
            begin = self._now()
            call()
            seconds = self._now() - begin
            best, spent = min(best, seconds) if turn else best, spent + seconds
            if turn and spent > ENOUGH:
                break
        return best

    def _now(self) -> float:
        if self.device == "cpu":
            return time.process_time() / torch.get_num_threads()
        torch.cuda.synchronize()
        return time.perf_counter()


class Forecast:
    """Seconds of a whole model's batches on this machine."""

    def __init__(self, config: PretrainedConfig, lora: LoraConfig, device: str, bf16: bool) -> None:
        self.layers, self.device = config.get_text_config().num_hidden_layers, device
        counts = [1, min(TIMED_LAYERS, self.layers)] if self.layers > 1 else [1]
        self.timed = {count: Timed(config, count, lora, device, bf16) for count in counts}

    def seconds(self, kind: str, work: Work) -> float:
        """Of `learning`, `reading` or `sampling`."""
        found = {count: getattr(timed, kind)(work) for count, timed in self.timed.items()}
        most = max(found)
        a_layer = (found[most] - found[1]) / max(1, most - 1)
        return found[1] + (self.layers - 1) * a_layer


def fitting_seconds(forecast: Forecast, records: int, fit: FitConfig, lengths: Lengths, ranks: int) -> float:
    """Seconds of all epochs over `records`."""
    rows = max(1, round(fit.batch_size / fit.accumulate / ranks))
    return records * fit.epochs / rows / ranks * forecast.seconds("learning", lengths.work(rows))


def ppo_seconds(forecast: Forecast, ppo: PPOConfig, lengths: Lengths, ranks: int, bf16: bool) -> float:
    """Seconds of sampling, the reference's reading and the updates of all iterations."""
    samples, rows = ppo.rollout_batch_size / ranks, max(1, round(ppo.mini_batch_size / ppo.accumulate / ranks))
    together = min(GENERATION_BATCH[forecast.device], max(1, round(samples)))
    sampled = lengths.work(together, max(1, together // ppo.samples_per_prompt))
    # in bf16 the policy, too, reads what it sampled; `sft_coef` has it read and learn train explanations besides
    rollout = forecast.seconds("sampling", sampled) + (2 if bf16 else 1) * forecast.seconds("reading", sampled)
    update = (2 if ppo.sft_coef > 0 else 1) * forecast.seconds("learning", lengths.work(rows))
    return ppo.iterations * samples * (rollout / together + ppo.epochs * update / rows)


def room_for(config: PretrainedConfig) -> bool:
    """Whether the layers to be timed are small enough to be made."""
    with torch.device("meta"):
        models = [AutoModelForCausalLM.from_config(_with_layers(config, n)) for n in (1, TIMED_LAYERS)]
    return sum(8 * p.numel() for model in models for p in model.parameters()) < ROOM


def _with_layers(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    few = copy.deepcopy(config)
    text = few.get_text_config()
    text.num_hidden_layers = layers
    if kinds := getattr(text, "layer_types", None):
        text.layer_types = [kinds[layer % len(kinds)] for layer in range(layers)]
    return few
