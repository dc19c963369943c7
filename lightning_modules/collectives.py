"""The few collective operations, each also right in a single process."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import distributed_c10d

log = logging.getLogger("llm2er")


def world() -> tuple[int, int]:
    """(rank, number of ranks)."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def wait_at_most(limit: timedelta) -> None:
    """How long a collective of any process group waits for the other ranks.

    Groups that libraries make for themselves have torch's default, 10 minutes with NCCL, whatever the first one has.
    """
    if dist.is_available() and dist.is_initialized():
        for group in list(distributed_c10d._world.pg_map):
            distributed_c10d._set_pg_timeout(limit, group)


def barrier() -> None:
    """Waits for all ranks."""
    if world()[1] > 1:
        dist.barrier()


def part() -> None:
    """Leaves the process group at the end of all work, once all ranks are there; collective.

    A process that ends inside of a gloo group may be aborted in its last moment (3 of 15 were, on a busy machine), and
    a run that had done all it should is taken for a failed one. A rank that is gone already has told why by itself.
    """
    if dist.is_available() and dist.is_initialized():
        try:
            dist.barrier()
        except RuntimeError as error:
            log.warning("another rank ended before all work was over: %s", str(error).partition("\n")[0])
        dist.destroy_process_group()


def sum_over_ranks(values: Tensor) -> Tensor:
    """The elementwise sum over ranks, on every rank."""
    if world()[1] > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def max_over_ranks(values: Tensor) -> Tensor:
    """The elementwise maximum over ranks, on every rank."""
    if world()[1] > 1:
        values = values.clone()
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def mean_over_ranks(value: Tensor) -> Tensor:
    """The elementwise mean over ranks, on every rank.

    For what is logged at each step: `sync_dist` would have every rank wait for all others, once a figure.
    """
    return sum_over_ranks(value) / world()[1]


def gather_objects(value: Any) -> list:
    """The picklable value of every rank, in rank order, on every rank. For text and small records."""
    ranks = world()[1]
    if ranks == 1:
        return [value]
    values: list = [None] * ranks
    dist.all_gather_object(values, value)
    return values


def gather_rows(values_BX: Tensor) -> Tensor:
    """Concatenates the rows of every rank, which may differ in number, in rank order. Carries no gradient."""
    ranks = world()[1]
    if ranks == 1:
        return values_BX.detach()
    own = torch.tensor([len(values_BX)], device=values_BX.device)
    counts = [torch.zeros_like(own) for _ in range(ranks)]
    dist.all_gather(counts, own)
    most = max(int(count) for count in counts)
    padded = values_BX.new_zeros((most, *values_BX.shape[1:]))
    padded[: len(values_BX)] = values_BX.detach()
    parts = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])


def full_state(module: nn.Module, keep: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """The whole parameters and buffers of a (possibly ZeRO-3 sharded) module on CPU.

    Collective: every rank must call it. Filled on rank 0, empty on the others.
    """
    first, state = world()[0] == 0, {}
    for name, parameter in module.named_parameters():
        if keep(name):
            with _whole([parameter]):
                if first:
                    state[name] = parameter.detach().to("cpu", copy=True).contiguous()
    if first:
        saved = module.state_dict().keys()  # leaves out buffers that are not persistent
        for name, buffer in module.named_buffers():
            if keep(name) and name in saved:
                state[name] = buffer.detach().to("cpu", copy=True).contiguous()
    return state


def _whole(parameters: list) -> contextlib.AbstractContextManager:
    sharded = [p for p in parameters if hasattr(p, "ds_id")]
    if not sharded:
        return contextlib.nullcontext()
    import deepspeed  # late: at import it chooses an accelerator, which launch.engine sets

    return deepspeed.zero.GatheredParameters(sharded)


@contextlib.contextmanager
def unsharded(engine: Any, module: nn.Module) -> Iterator[None]:
    """Whole parameters and no ZeRO-3 hooks inside: for generation, where ranks take different numbers of steps.

    Without it ranks whose rows end early would leave the others waiting in a gather; gathering once a rollout is also
    6 to 8 times faster than at each token. Does nothing below stage 3. Collective: every rank must enter and leave.
    """
    parameters = [p for p in module.parameters() if hasattr(p, "ds_id")]
    if not parameters:
        yield
        return
    offload = getattr(engine.optimizer, "parameter_offload", engine.optimizer)
    with _whole(parameters):
        offload._remove_module_hooks()
        try:
            yield
        finally:
            offload.setup_zero_stage3_hooks()


def gradients(optimizer: Any) -> Iterator[Tensor]:
    """This rank's part of the gradients that an optimizer is about to apply, sharded by DeepSpeed or not."""
    sharded = getattr(optimizer, "averaged_gradients", None)
    if sharded:
        yield from (part for group in sharded.values() if group is not None for part in group if part is not None)
        return
    yield from (p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)


def trainable_and_total(module: nn.Module) -> tuple[int, int]:
    """Numbers of trainable and of all parameters; a ZeRO-3 shard counts as the whole."""
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in module.parameters()]
    return sum(n for n, grad in sizes if grad), sum(n for n, _ in sizes)
