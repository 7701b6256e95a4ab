"""How a run is spread over processes: by accelerate, and DeepSpeed where it is configured."""

from __future__ import annotations

import importlib.util

import torch
from accelerate import Accelerator
from torch import nn

from gym_dialogue import InputError
from gym_policy.distributed import join_processes, runs_on_cpu, with_deepspeed
from rl.config import RLConfig


def make_accelerator(config: RLConfig) -> Accelerator:
    """Return the accelerator of a run. Raises InputError where this machine cannot serve it."""
    for tracker in config.trackers:
        if tracker != "all" and importlib.util.find_spec(tracker) is None:
            raise InputError(f"trackers: {tracker} is not installed: pip install {tracker}")
    join_processes()
    return Accelerator(
        cpu=runs_on_cpu() and not with_deepspeed(),
        mixed_precision=mixed_precision(config),
        log_with=config.trackers or None,
        project_dir=config.run_dir,
    )


def mixed_precision(config: RLConfig) -> str:
    """Return what accelerate is told: bf16 is autocast over float32 weights, or DeepSpeed's bf16
    engine. A frozen base in bfloat16 under float32 adapters needs neither.
    """
    wants_bf16 = config.dtype == "bfloat16" and (with_deepspeed() or not config.lora.rank)
    return "bf16" if wants_bf16 else "no"


def load_dtype(config: RLConfig) -> str:
    """Return what weights are loaded in: float32 where they are trained themselves (DeepSpeed makes
    its own float32 copy).
    """
    return config.dtype if with_deepspeed() or config.lora.rank else "float32"


def zero_stage(accelerator: Accelerator) -> int | None:
    """Return DeepSpeed's ZeRO stage, None without DeepSpeed."""
    plugin = getattr(accelerator.state, "deepspeed_plugin", None)
    return None if plugin is None else int(plugin.zero_stage)


def check_stage(config: RLConfig, stage: int | None) -> None:
    """Raise InputError for what a ZeRO stage does not serve."""
    if stage == 0:  # its engine divides gradients otherwise than ZeRO's, and reports no norm
        raise InputError(
            "zero_stage: 0 of DeepSpeed partitions nothing: set 1, 2 or 3, or for the same without "
            "DeepSpeed distributed_type: MULTI_GPU"
        )
    if stage == 3 and config.kl_coef > 0 and not config.lora.rank:
        raise InputError(
            f"kl_coef={config.kl_coef} under ZeRO-3: the frozen copy of the reference would not be "
            "partitioned; use lora.rank (the reference is then the adapter switched off), or ZeRO-2"
        )


def prepare(
    accelerator: Accelerator, config: RLConfig, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return the model and optimizer as accelerate hands them back. Under DeepSpeed the run's
    settings are written into its configuration, which otherwise clips to 1.0 and knows no batch
    size.
    """
    plugin = getattr(accelerator.state, "deepspeed_plugin", None)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    if plugin is not None:
        accelerator.gradient_accumulation_steps = accumulation_steps(config)
        plugin.deepspeed_config.update(
            train_micro_batch_size_per_gpu=config.microbatch_size,
            gradient_accumulation_steps=accumulation_steps(config),
            gradient_clipping=config.max_grad_norm,
        )
    prepared = accelerator.prepare(model, optimizer)
    # An engine in bfloat16 casts buffers too, but rotary frequencies must stay as they are.
    for name, buffer in accelerator.unwrap_model(prepared[0]).named_buffers():
        if name in buffers and buffer.dtype != buffers[name].dtype:
            buffer.data = buffers[name].to(buffer.device)
    return prepared


def accumulation_steps(config: RLConfig) -> int:
    """Return the microbatches in a minibatch."""
    return config.minibatch_size // config.microbatch_size
