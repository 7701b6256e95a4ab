"""DeepSpeed: whether it is in use, and whole weights where ZeRO-3 keeps a part on each rank."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import PartialState
from torch import nn

from gym_dialogue.errors import InputError


def with_deepspeed() -> bool:
    """Return whether the accelerate configuration says DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"


def runs_on_cpu() -> bool:
    """Return whether there is no GPU, or the accelerate configuration says use_cpu."""
    wants = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    wants_deepspeed = with_deepspeed() and os.environ.get("DS_ACCELERATOR") == "cpu"
    return wants or wants_deepspeed or not torch.cuda.is_available()


def join_processes() -> PartialState:
    """Join the other processes of the launch, before accelerate or transformers look for them.

    accelerate takes a CPU to mean no DeepSpeed, and DeepSpeed on a CPU to mean one process; told of
    the processes first, it does both. Raises InputError where this machine cannot serve the launch.
    """
    on_cpu = runs_on_cpu()
    ranks, devices = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if not on_cpu and ranks > devices:
        raise InputError(
            f"{ranks} processes on this machine, but {devices} GPUs: set num_processes in the "
            "accelerate configuration to at most that (scripts/accelerate/)"
        )
    if on_cpu and with_deepspeed():
        if os.environ.get("DS_ACCELERATOR") != "cpu":
            raise InputError(
                "DeepSpeed on the CPU: the accelerate configuration must say use_cpu: true, as "
                "scripts/accelerate/cpu_zero2_2proc.yaml does; this machine has no GPU"
            )
        import deepspeed.ops

        # An exchange by shared memory that would be compiled first, for minutes, by a C++ compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if on_cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"  # peft imports DeepSpeed, which would ask and warn
    # One rank may write a large checkpoint while the others wait.
    return PartialState(cpu=on_cpu, timeout=timedelta(hours=2))


def is_partitioned(model: nn.Module) -> bool:
    """Return whether weights of the model are spread over the ranks (ZeRO-3)."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Gather all weights on every rank, once, for as long as many forward passes need them, as
    sampling does. `model` may be a DeepSpeed engine, or a model that from_pretrained has
    partitioned. All ranks enter together. Does nothing where weights are whole anyway.

    The engine would otherwise gather every layer's weights anew for each sampled token, and its
    ranks would have to sample the same number of tokens.
    """
    if not is_partitioned(model):
        yield
        return
    from deepspeed import zero

    offload = getattr(getattr(model, "optimizer", None), "parameter_offload", None)
    if offload is not None:  # its hooks would partition a layer again after each forward pass
        offload.partition_all_parameters()
        offload._remove_module_hooks()
        offload.forward_hooks.clear()
        offload.backward_hooks.clear()
    try:
        with zero.GatheredParameters(list(model.parameters())):
            yield
    finally:
        if offload is not None:
            offload.setup_zero_stage3_hooks()
