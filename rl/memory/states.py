"""Memory of weights, gradients and optimizer states, on the devices and on the host."""

from __future__ import annotations

import logging

from rl.devices import Launch
from rl.memory.parameters import Counts
from rl.memory.precision import Precision

LOADING = "weights, while they are loaded"
"""The host's part that is gone before anything is offloaded."""
GATHERED = "modules gathered in turn"
"""ZeRO-3's part that a pass through the model needs, and nothing else."""

_STAGING = 0.5  # host buffers as a share of what is offloaded, as DeepSpeed's estimators count them


def model_states(counts: Counts, precision: Precision, launch: Launch) -> dict[str, int]:
    """Return bytes per device, by part, of weights, gradients and optimizer states."""
    if launch.zero_stage is not None:
        return _zero_states(counts, precision.base, launch, launch.zero_stage)
    states = {
        "weights": precision.base * counts.base + precision.added * counts.added,
        # Trained parameters are float32, and so are their gradients and AdamW's two moments.
        "gradients": 4 * counts.trained,
        "optimizer states": 8 * counts.trained,
    }
    if launch.processes > 1:
        # DistributedDataParallel reduces gradients in buckets that hold a copy of all of them
        # (gradient_as_bucket_view is off).
        states["gradient buckets"] = 4 * counts.trained
    return states


def _zero_states(counts: Counts, width: int, launch: Launch, stage: int) -> dict[str, int]:
    """Return the states under ZeRO (Rajbhandari et al. 2019, arXiv 1910.02054), `width` bytes per
    weight.

    Trained parameters are counted as DeepSpeed's estimators count them. Those assume that all
    parameters are trained and 16 bits wide; frozen ones are therefore counted here.
    """
    trained = counts.trained
    share = trained / launch.processes if stage else trained
    optimizer_on_device = launch.offload_optimizer == "none"
    weights = width * counts.total / (launch.processes if stage == 3 else 1)
    if stage == 3 and launch.offload_parameters != "none":
        weights = 0
    # Stage 3 gathers a module whole, with its gradient.
    gathered = 2 * width * counts.largest if stage == 3 else 0
    # A float32 copy of the weights and two moments.
    optimizer = 12 * share if optimizer_on_device else 0
    estimate = _deepspeed_estimate(launch, trained, counts.largest)
    if estimate is not None and width == 2:
        frozen = weights * (1 - trained / counts.total)
        gradients = estimate + frozen - weights - gathered - optimizer
    else:
        gradients = _zero_gradients(trained, share, width, stage) if optimizer_on_device else 0
    buffers: float = launch.bucket if stage > 0 else 0  # gradients are reduced in a fixed buffer
    if not optimizer_on_device:
        buffers += counts.largest  # one gradient at a time leaves for the host
    elif stage == 3:
        buffers += share
    return {
        "weights": int(weights),
        GATHERED: int(gathered),
        "gradients": max(0, int(gradients)),
        "optimizer states": int(optimizer),
        "DeepSpeed's buffers": int(width * buffers),
    }


def _zero_gradients(trained: int, share: float, width: int, stage: int) -> float:
    """Return bytes of the gradients on a device that also holds the optimizer states.

    The step needs a share in float32. Before it, gradients are in the model's type: all of them in
    stages 0 and 1, a share in stage 2, and in stage 3 a buffer that is counted with the others.
    """
    kept = {0: trained, 1: trained, 2: share, 3: 0}[stage]
    return width * kept + 4 * share


def _deepspeed_estimate(launch: Launch, trained: int, largest: int) -> int | None:
    """Return DeepSpeed's estimate of the states on a device, for 16-bit weights that are all
    trained; None if DeepSpeed has no estimator for the launch or is not installed.
    """
    stage = launch.zero_stage or 0
    cpu_offload = launch.offload_optimizer != "none"
    cpu_offload_params = launch.offload_parameters != "none"
    if stage < 2 or (cpu_offload_params and not cpu_offload):
        return None
    logging.disable(logging.WARNING)  # importing DeepSpeed warns on machines without a GPU
    try:
        from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
        from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
    except ImportError:
        return None
    finally:
        logging.disable(logging.NOTSET)
    shape = {
        "num_gpus_per_node": launch.processes // launch.machines,
        "num_nodes": launch.machines,
        "cpu_offload": cpu_offload,
    }
    if stage == 2:
        return estimate_zero2_model_states_mem_needs(trained, **shape)[1]
    return estimate_zero3_model_states_mem_needs(
        trained, largest, cpu_offload_params=cpu_offload_params, **shape
    )[1]


def host_memory(counts: Counts, precision: Precision, launch: Launch) -> dict[str, int]:
    """Return bytes per host, by part; nothing if the host is itself the device."""
    if launch.on_cpu:
        return {}
    local_processes = launch.processes // launch.machines
    # Each process reads the weights before it moves them to its device.
    host = {LOADING: local_processes * precision.base * counts.base}
    offloaded = 0
    if launch.offload_optimizer == "cpu":
        # A float32 gradient, weight and two moments, partitioned over all processes.
        offloaded = 16 * counts.trained // launch.machines
        host["optimizer states"] = offloaded
    if launch.offload_parameters == "cpu":
        weights = precision.base * counts.total // launch.machines
        host["weights"] = weights
        offloaded += weights
    if offloaded:
        host["DeepSpeed's buffers"] = int(_STAGING * offloaded)
    return host
