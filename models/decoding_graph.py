"""Sampling on a GPU by a CUDA graph: all that a new token takes is recorded once and replayed.

Launched one by one, the few hundred small kernels of a token keep the GPU waiting most of the time. R rows, a multiple
of ROWS; S places of the cache, a multiple of PLACES; T new tokens, W width of the model.
"""

import contextlib
from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import Cache

from models.key_values import FixedLayer, next_state
from models.language_model import PLAIN_FAMILIES, head_logits, trunk_of
from models.sampling import Generated, Limits, Sampling, choose

ROWS, PLACES = 64, 64  # batches that differ by less share a graph
KEPT = 4  # graphs of a model that are kept, each with a cache of its own
LOOK = 4  # tokens after which it is looked whether any row goes on: a look waits for the GPU


class DecodingGraph:
    """The recorded step of a batch: read the last token, draw the next."""

    def __init__(self, like: Cache, hidden_BW: Tensor, shape: tuple[int, int], limits: Limits, greedy: bool) -> None:
        rows, places = shape
        device = hidden_BW.device
        self.limits, self.greedy = limits, greedy
        self.place_1, self.step_1 = (torch.zeros(1, dtype=torch.long, device=device) for _ in range(2))
        self.cache = Cache(layers=[FixedLayer(rows, places, self.place_1, layer) for layer in like.layers])
        self.mask_RS = torch.ones(rows, places, dtype=torch.long, device=device)
        self.position_R1 = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.token_R = torch.zeros(rows, dtype=torch.long, device=device)
        self.going_R = torch.zeros(rows, dtype=torch.bool, device=device)
        self.uniform_RT = torch.zeros(rows, limits.length, dtype=torch.float64, device=device)
        self.made = Generated.empty(hidden_BW.new_empty(rows, hidden_BW.shape[1]), limits)
        self.graph: torch.cuda.CUDAGraph | None = None

    def begin(self, cache: Cache, mask_BP: Tensor, uniform_BT: Tensor | None) -> None:
        """Sets all that a step counts on or adds to; the rows behind the B given ones have ended."""
        batch, prompt = mask_BP.shape
        for mine, given in zip(self.cache.layers, cache.layers, strict=True):
            mine.take(given)
        self.place_1.fill_(prompt)
        self.step_1.zero_()
        self.mask_RS.fill_(1)[:batch, :prompt] = mask_BP
        self.position_R1.zero_()[:batch] = mask_BP.sum(1, keepdim=True)
        self.going_R.zero_()[:batch] = True
        if uniform_BT is not None:
            self.uniform_RT[:batch] = uniform_BT
        self.made.response_BT.fill_(self.limits.fill)
        for part in (self.made.mask_BT, self.made.log_prob_BT, self.made.hidden_BTW):
            part.zero_()

    def draw(self, lm: nn.Module, hidden_RW: Tensor, sampling: Sampling | None) -> None:
        """The next token of every row."""
        uniform_R = None if self.greedy else self.uniform_RT.index_select(1, self.step_1)[:, 0]
        token_R, log_prob_R = choose(head_logits(lm, hidden_RW).float(), uniform_R, sampling)
        going_R, made = self.going_R, self.made
        for column, value_R in (
            (made.response_BT, torch.where(going_R, token_R, self.limits.fill)),
            (made.mask_BT, going_R.long()),
            (made.log_prob_BT, log_prob_R * going_R),
            (made.hidden_BTW, hidden_RW * going_R[:, None]),
        ):
            column.index_copy_(1, self.step_1, value_R[:, None])
        self.token_R.copy_(token_R)
        self.going_R &= token_R != self.limits.end
        self.step_1 += 1

    def step(self, lm: nn.Module, sampling: Sampling | None) -> None:
        """Reads the token that was drawn last and draws the next one: what is recorded."""
        token_R1W = lm.get_input_embeddings()(self.token_R[:, None])
        hidden_RW = next_state(lm, self.cache, self.mask_RS, self.position_R1, token_R1W, self.place_1)
        self.place_1 += 1
        self.position_R1 += 1
        self.draw(lm, hidden_RW, sampling)

    def record(self, lm: nn.Module, sampling: Sampling | None) -> None:
        """Runs a step for what is set up at a first call, and records another."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.step(lm, sampling)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step(lm, sampling)


_GRAPHS: WeakKeyDictionary[nn.Module, dict[tuple, DecodingGraph]] = WeakKeyDictionary()


def fits_a_graph(lm: nn.Module) -> bool:
    """Whether the model's steps can be recorded: its weights stay where they are, and it is of a family known to do."""
    weight = lm.get_input_embeddings().weight
    whole = not hasattr(weight, "ds_id")  # ZeRO-3 gathers weights anew for every rollout
    known = trunk_of(lm).config.model_type in PLAIN_FAMILIES
    return weight.device.type == "cuda" and whole and known and not torch.is_autocast_enabled("cuda")


def continue_by_graph(
    lm: nn.Module,
    cache: Cache,
    mask_BP: Tensor,
    hidden_BW: Tensor,
    limits: Limits,
    uniform_BT: Tensor | None,
    sampling: Sampling | None,
) -> Generated:
    """Responses behind what the cache holds; `hidden_BW` are the states from which the first tokens are drawn."""
    batch, prompt = mask_BP.shape
    rows = -(-batch // ROWS) * ROWS
    with _any_order(), torch.inference_mode(False), torch.no_grad():
        graph = _graph_of(lm, cache, hidden_BW, (rows, prompt + limits.length), limits, uniform_BT is None, sampling)
        graph.begin(cache, mask_BP, uniform_BT)
        graph.draw(lm, torch.cat([hidden_BW, hidden_BW.new_zeros(rows - batch, hidden_BW.shape[1])]), sampling)
        for step in range(1, limits.length):
            if step % LOOK == 0 and not graph.going_R.any():
                break
            graph.graph.replay()
        return Generated(*(part[:batch].clone() for part in vars(graph.made).values()))


def _graph_of(
    lm: nn.Module,
    cache: Cache,
    hidden_BW: Tensor,
    shape: tuple[int, int],
    limits: Limits,
    greedy: bool,
    sampling: Sampling | None,
) -> DecodingGraph:
    """The graph recorded for such a batch and these very weights, or a new one."""
    shape = (shape[0], -(-shape[1] // PLACES) * PLACES)
    where = tuple(part.data_ptr() for part in (*lm.parameters(), *lm.buffers()))
    key = (shape, limits, greedy, sampling, hidden_BW.dtype, lm.training, where)
    known = _GRAPHS.setdefault(lm, {})
    if key not in known:
        while len(known) >= KEPT:
            known.pop(next(iter(known)))
        graph = DecodingGraph(cache, hidden_BW, shape, limits, greedy)
        graph.record(lm, sampling)
        known[key] = graph
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
