"""The Trainer and the DeepSpeed strategy, one class for GPU and CPU."""

import logging
import os
import socket
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.precision import DeepSpeedPrecision
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import Tensor

from callbacks.freed_memory import keep_freed_memory
from launch.hardware import HardwareConfig, ZeroConfig, use_cpu
from launch.meeting import meet, try_sum
from lightning_modules.collectives import wait_at_most
from lightning_modules.fitting import in_fixed_order
from metrics.errors import InputError

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed guesses, and warns at import
import deepspeed  # noqa: E402
import deepspeed.runtime.bf16_optimizer  # noqa: E402
from deepspeed.accelerator import set_accelerator  # noqa: E402
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator  # noqa: E402

from launch.shards import DurableShards  # noqa: E402

log = logging.getLogger("llm2er")

# It prints what memory it holds at every start of a bf16 run, whatever its log level.
deepspeed.runtime.bf16_optimizer.see_memory_usage = lambda message, force=False: None

FIRST_SUM = timedelta(seconds=300)  # in which ranks that have met must have added something up
SHARDS = "shards"  # folder of DeepSpeed's files in a checkpoint


class AnyDeviceDeepSpeedStrategy(DeepSpeedStrategy):
    """Lightning's DeepSpeedStrategy without its refusal of CPUs, so that tests shard for real on any machine.

    DeepSpeed itself runs on CPU over gloo. Three things stand in the way in Lightning 2.6.6: the CUDA check of
    `setup_environment`, and two comparisons with a device index, which `cpu` lacks and `cpu:0` has.
    """

    strategy_name = "deepspeed_any_device"

    def setup_environment(self) -> None:
        """As the parent's on CUDA; on CPU all of it but the refusal."""
        if not isinstance(self.accelerator, CPUAccelerator):
            super().setup_environment()
            return
        _no_compilation()
        self.parallel_devices = [torch.device("cpu", i) for i in range(len(self.parallel_devices or [0]))]
        super(DeepSpeedStrategy, self).setup_environment()

    def init_deepspeed(self) -> None:
        """As the parent's; the process groups that DeepSpeed makes here wait as long as ours do."""
        super().init_deepspeed()
        wait_at_most(self._timeout)

    def save_checkpoint(self, checkpoint: dict, filepath: Any, storage_options: Any = None) -> None:
        """Writes all ranks' shards to a folder; collective. `write_failure` says whether that went well.

        Frozen parameters are left out: they are read again from where they came from.
        """
        engine = self.deepspeed_engine
        engine.checkpoint_engine = shards = DurableShards()
        engine._copy_recovery_script = lambda save_path: None  # a script beside the data, which we have no use for
        kept = {key: value for key, value in checkpoint.items() if key not in ("state_dict", "optimizer_states")}
        engine.save_checkpoint(
            str(filepath), tag=SHARDS, client_state=kept, save_latest=False, exclude_frozen_parameters=True
        )
        self._release_small_parameters()
        self.write_failure = shards.failure

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads what `save_checkpoint` wrote into the engine; collective."""
        engine = self.deepspeed_engine
        engine.checkpoint_engine = DurableShards()
        _, state = engine.load_checkpoint(
            str(checkpoint_path), tag=SHARDS, load_lr_scheduler_states=False, load_module_strict=False
        )
        # The count of steps of a converted checkpoint comes back on CPU; AdamW in one kernel wants it at the weights.
        for parameter, found in getattr(engine.optimizer, "optimizer", engine.optimizer).state.items():
            if torch.is_tensor(found.get("step")):
                found["step"] = found["step"].to(parameter.device)
        self._release_small_parameters()
        return state

    def _release_small_parameters(self) -> None:
        """Under ZeRO-3 saving and loading leave the small parameters gathered, and a step then does not notice which
        of them are used outside of the module that owns them; it fails as soon as they are released ("tracing error").
        """
        if small := getattr(self.deepspeed_engine.optimizer, "persistent_parameters", None):
            small[0].partition(small)

    def read_shards(self, folder: Path) -> None:
        """Reads every shard that this rank will need again, and drops it."""
        rank, reader = self.global_rank, DurableShards()
        for path in sorted((folder / SHARDS).iterdir()):
            if path.name.startswith((f"zero_pp_rank_{rank}_", "mp_rank_")):
                reader.load(str(path), map_location="cpu")


class ExactDeepSpeedPrecision(DeepSpeedPrecision):
    """Lightning's DeepSpeed precision without two silent changes of numbers."""

    def convert_input(self, data: Any) -> Any:
        """Batches stay float32: log-probabilities, weights and scales must not be rounded; networks cast them."""
        return data

    def backward(self, tensor: Tensor, model: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Lightning has divided the loss by the number of micro-batches already; DeepSpeed would do it once more."""
        with in_fixed_order():
            super().backward(tensor, model, optimizer, *args, scale_wrt_gas=False, **kwargs)


def collective_limit(hardware: HardwareConfig) -> timedelta:
    """How long a rank waits for the others in a collective.

    A little more than the watchdog's limit: that says where a rank hangs; a time-out of a collective does not.
    """
    return timedelta(seconds=hardware.hang_timeout + 60) if hardware.hang_timeout else timedelta(days=7)


def start(hardware: HardwareConfig) -> None:
    """Joins the process group, once a process, and sets what must be set before any network exists."""
    if hardware.accelerator == "gpu" and not torch.cuda.is_available():
        raise InputError("hardware.accelerator=gpu, but torch sees no CUDA device; use hardware.accelerator=cpu")
    cpu = use_cpu(hardware)
    if cpu:
        set_accelerator(CPU_Accelerator())  # where there is a GPU, DeepSpeed has chosen it at import
        prepare_cpu()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _repeatable()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if not cpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        _no_compilation()
        limit, backend = collective_limit(hardware), "gloo" if cpu else "nccl"
        store, rank, ranks = next(dist.rendezvous("env://", timeout=limit))
        met = meet(store, rank, ranks, limit)
        # Ranks that meet by one network and compute by another, which is not there, would wait for `limit`.
        try:
            dist.init_process_group(backend, store=met, rank=rank, world_size=ranks, timeout=min(limit, FIRST_SUM))
            seconds = try_sum(torch.device("cpu" if cpu else "cuda"))
        except RuntimeError as error:
            raise RuntimeError(
                f"rank {rank} on {socket.gethostname()} has met the others and cannot compute with them ({error}); "
                f"{backend.upper()}_SOCKET_IFNAME, if set, must name a network that joins all nodes"
            ) from error
        log.info(
            "%d ranks, %s a node: adding up 1 MB takes %.1f ms",
            *(ranks, os.environ.get("LOCAL_WORLD_SIZE", ranks), 1000 * seconds),
        )
        wait_at_most(limit)
        deepspeed.init_distributed(dist_backend=backend, timeout=limit, verbose=False)


def prepare_cpu() -> None:
    """Threads and memory as a run on CPU has them."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    keep_freed_memory()


def _repeatable() -> None:
    """The same run gives the same numbers, as far as kernels can; see also `in_fixed_order`."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Deterministic mode would also fill every new tensor; with DeepSpeed's large buckets that is most of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False
    # Attention in bfloat16 would go to cuDNN, which makes a plan for each new shape: every batch has one.
    torch.backends.cuda.enable_cudnn_sdp(False)


def _no_compilation() -> None:
    # Else a C++ extension, of use for inference only, is compiled at every start, and a killed compilation leaves a
    # lock at which every later start waits for ever.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def make_trainer(
    zero: ZeroConfig,
    hardware: HardwareConfig,
    folder: Path,
    logger: Any,
    callbacks: list,
    converted: bool = False,
    **options: Any,
) -> pl.Trainer:
    """A Trainer over all ranks that torchrun started (or over this one process), sharded by DeepSpeed ZeRO.

    `converted`: it will go on from a checkpoint that `convert=` wrote. `options` are the stage's own: epochs, gradient
    clipping, accumulation, validation interval.
    """
    cpu = use_cpu(hardware)
    strategy = AnyDeviceDeepSpeedStrategy(
        stage=zero.stage,
        offload_optimizer=zero.offload_optimizer,
        offload_parameters=zero.offload_param,
        # Lightning would otherwise build the training loader during set-up to find this number, and building
        # PPO's loader means a rollout. DeepSpeed uses it for its own logging alone.
        logging_batch_size_per_gpu=1,
        timeout=collective_limit(hardware),
    )
    # torch optimizers are used as they are: DeepSpeed's own would be compiled at start-up.
    strategy.config["zero_force_ds_cpu_optimizer"] = False  # type: ignore[index]
    # Gradients that are not finite end the run (callbacks.guards). DeepSpeed would look for them once more, a parameter
    # at a time, and pass over the step without a word.
    if hardware.precision == "bf16":
        strategy.config["bf16"] = {"enabled": True, "check_grad_overflow": False}  # type: ignore[index]
    if converted and zero.stage > 0:
        strategy.config["checkpoint"] = {"load_universal": True}  # type: ignore[index]
    trainer = pl.Trainer(
        accelerator="cpu" if cpu else "gpu",
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        strategy=strategy,
        plugins=[ExactDeepSpeedPrecision("bf16-mixed" if hardware.precision == "bf16" else "32-true")],
        default_root_dir=folder,
        logger=logger,
        callbacks=callbacks,
        use_distributed_sampler=False,  # batches are dealt by datamodules.batches.BatchPlan
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        **options,
    )
    # Signals are callbacks.requests' alone: Lightning's handlers end a run by SIGTERM between two epochs, unsaved and
    # with exit code 0.
    trainer._signal_connector.register_signal_handlers = lambda: None
    return trainer
