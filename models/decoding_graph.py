"""Sampling on a GPU by two CUDA graphs: reading the prompts, and a further token. Each is recorded once and replayed.

Launched one by one, the few hundred small kernels of a token keep the GPU waiting most of the time. Q prompts of P
places, R responses of T new tokens, S places of both, W width. Q and R are multiples of ROWS, P and S of PLACES: what
is behind the B given ones is padding.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache

from models.key_values import FixedLayer
from models.language_model import aligned_head, attends_plainly, head_logits, trunk_of
from models.next_state import next_state, positions
from models.sampling import Generated, Limits, Sampling, choose

ROWS, PLACES = 32, 32  # batches that differ by less share their graphs
KEPT = 4  # recordings of a model that are kept, each with caches of its own
LOOK = 4  # tokens after which it is looked whether any row goes on: a look waits for the GPU


@dataclass(frozen=True)
class Work:
    """What a recording is good for."""

    prompts: int  # Q
    prompt_places: int  # P
    rows: int  # R
    limits: Limits
    greedy: bool
    sampling: Sampling | None


class DecodingGraph:
    """The steps of a batch and all that they read and write, at fixed places."""

    def __init__(self, lm: nn.Module, work: Work) -> None:
        self.work = work
        weight = lm.get_input_embeddings().weight
        device, layers = weight.device, lm.config.get_text_config(decoder=True).num_hidden_layers
        places = _up(work.prompt_places + work.limits.length, PLACES)
        self.prompt_QPW = weight.new_zeros(work.prompts, work.prompt_places, weight.shape[1])
        self.prompt_mask_QP = torch.zeros(work.prompts, work.prompt_places, dtype=torch.long, device=device)
        self.prompt_R = torch.zeros(work.rows, dtype=torch.long, device=device)  # which prompt a row goes on with
        self.mask_RS = torch.ones(work.rows, places, dtype=torch.long, device=device)
        self.position_R1 = torch.zeros(work.rows, 1, dtype=torch.long, device=device)
        self.place_1, self.step_1 = (torch.zeros(1, dtype=torch.long, device=device) for _ in range(2))
        self.token_R = torch.zeros(work.rows, dtype=torch.long, device=device)
        self.going_R = torch.zeros(work.rows, dtype=torch.bool, device=device)
        self.uniform_RT = torch.zeros(work.rows, work.limits.length, dtype=torch.float64, device=device)
        self.made = Generated.empty(weight.new_empty(work.rows, weight.shape[1]), work.limits)
        place_P = torch.arange(work.prompt_places, device=device)
        self.prompt_cache = Cache(layers=[FixedLayer(work.prompt_places, place_P) for _ in range(layers)])
        self.cache = Cache(layers=[FixedLayer(places, self.place_1) for _ in range(layers)])
        self.head = aligned_head(lm)
        self.replays: list[Callable[[], None]] = []  # of the two steps below

    def begin(self, prompt_QPW: Tensor, mask_QP: Tensor, prompt_B: Tensor, uniform_BT: Tensor | None) -> None:
        """Sets what the steps start from; rows and prompts behind the given ones are padding that has ended."""
        (prompts, length, _), batch = prompt_QPW.shape, len(prompt_B)
        self.prompt_QPW[:prompts, -length:] = prompt_QPW
        self.prompt_mask_QP.zero_()[:prompts, -length:] = mask_QP
        self.prompt_R.zero_()[:batch] = prompt_B
        self.going_R.zero_()[:batch] = True
        if uniform_BT is not None:
            self.uniform_RT[:batch] = uniform_BT
        self.made.response_BT.fill_(self.work.limits.fill)
        for part in (self.made.mask_BT, self.made.log_prob_BT, self.made.hidden_BTW):
            part.zero_()

    def read_prompts(self, lm: nn.Module) -> None:
        """Reads each prompt, deals it out to its rows, and draws their first tokens."""
        for mine, current in zip(self.head or (), aligned_head(lm) or (), strict=True):
            mine.copy_(current)  # the weights have learnt since; a token's step reads the copy
        mask_QP, row_R = self.prompt_mask_QP, self.prompt_R
        place_P = self.prompt_cache.layers[0].place_N
        hidden_QW = next_state(lm, self.prompt_cache, mask_QP, positions(mask_QP), self.prompt_QPW, place_P)
        for mine, given in zip(self.cache.layers, self.prompt_cache.layers, strict=True):
            mine.begin_with(given, row_R)
        self.mask_RS[:, : self.work.prompt_places] = mask_QP[row_R]
        self.position_R1.copy_(mask_QP.sum(1)[row_R, None])
        self.place_1.fill_(self.work.prompt_places)
        self.step_1.zero_()
        self._draw(lm, hidden_QW[row_R])

    def read_token(self, lm: nn.Module) -> None:
        """Reads the tokens that were drawn last and draws the next ones."""
        token_R1W = lm.get_input_embeddings()(self.token_R[:, None])
        hidden_RW = next_state(lm, self.cache, self.mask_RS, self.position_R1, token_R1W, self.place_1)
        self.place_1 += 1
        self.position_R1 += 1
        self._draw(lm, hidden_RW)

    def _draw(self, lm: nn.Module, hidden_RW: Tensor) -> None:
        uniform_R = None if self.work.greedy else self.uniform_RT.index_select(1, self.step_1)[:, 0]
        logits_RV = F.linear(hidden_RW, *self.head) if self.head else head_logits(lm, hidden_RW)
        token_R, log_prob_R = choose(logits_RV.float(), uniform_R, self.work.sampling)
        going_R, made = self.going_R, self.made
        for column, value_R in (
            (made.response_BT, torch.where(going_R, token_R, self.work.limits.fill)),
            (made.mask_BT, going_R.long()),
            (made.log_prob_BT, log_prob_R * going_R),
            (made.hidden_BTW, hidden_RW * going_R[:, None]),
        ):
            column.index_copy_(1, self.step_1, value_R[:, None])
        self.token_R.copy_(token_R)
        self.going_R &= token_R != self.work.limits.end
        self.step_1 += 1

    def record(self, lm: nn.Module) -> None:
        """Runs the steps for what is set up at a first call, caches among it, and records them."""
        steps = [self.read_prompts, self.read_token][: self.work.limits.length]  # one token takes no second step
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for step in steps:
                step(lm)
        torch.cuda.current_stream().wait_stream(stream)
        for step in steps:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step(lm)
            self.replays.append(graph.replay)


_GRAPHS: WeakKeyDictionary[nn.Module, dict[tuple, DecodingGraph]] = WeakKeyDictionary()


def fits_a_graph(lm: nn.Module) -> bool:
    """Whether the model's steps can be recorded: its weights stay where they are, and it attends plainly."""
    weight = lm.get_input_embeddings().weight
    whole = not hasattr(weight, "ds_id")  # ZeRO-3 gathers weights anew for every rollout
    plain = attends_plainly(trunk_of(lm).config)
    return weight.device.type == "cuda" and whole and plain and not torch.is_autocast_enabled("cuda")


def generate_by_graph(
    lm: nn.Module,
    prompt_QPW: Tensor,
    mask_QP: Tensor,
    limits: Limits,
    uniform_BT: Tensor | None,
    prompt_B: Tensor,
    sampling: Sampling | None,
) -> Generated:
    """As models.generation.generate."""
    sizes = (_up(len(prompt_QPW), ROWS), _up(prompt_QPW.shape[1], PLACES), _up(len(prompt_B), ROWS))
    with _any_order(), torch.inference_mode(False), torch.no_grad():
        graph = _recorded(lm, Work(*sizes, limits, uniform_BT is None, sampling))
        graph.begin(prompt_QPW, mask_QP, prompt_B, uniform_BT)
        graph.replays[0]()
        for step in range(1, limits.length):
            if step % LOOK == 0 and not graph.going_R.any():
                break
            graph.replays[1]()
        return Generated(*(part[: len(prompt_B)].clone() for part in vars(graph.made).values()))


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _recorded(lm: nn.Module, work: Work) -> DecodingGraph:
    """The recording for such a batch and these very weights, or a new one."""
    where = tuple(part.data_ptr() for part in (*lm.parameters(), *lm.buffers()))
    known, key = _GRAPHS.setdefault(lm, {}), (work, lm.training, where)
    if key not in known:
        while len(known) >= KEPT:
            known.pop(next(iter(known)))
        known[key] = DecodingGraph(lm, work)
        known[key].record(lm)
    return known[key]


@contextlib.contextmanager
def _any_order() -> Iterator[None]:
    """Without deterministic mode, whose writes by index sort them first; no two here go to one place."""
    strict, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warn)
