"""Advice for a plan that does not fit: what one change of the settings would save."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rl.config import RLConfig
from rl.memory.activations import LAYER, LOGITS
from rl.memory.parameters import count_parameters
from rl.memory.plan import MemoryPlan, plan
from rl.memory.units import DEVICE_BYTES, size_text

_FILLED = 0.9  # of DEVICE_BYTES, what an advised batch may fill
_WORTHWHILE = 0.98  # of a phase, what an advised change may leave
_LORA_RANK = 64  # of advised adapters


def advice(config: RLConfig, planned: MemoryPlan) -> list[str]:
    """Return lines that name, for phases over DEVICE_BYTES, single changes and what each makes of
    them. Returns no lines for a plan that fits.
    """
    over = [phase for phase in planned.phases if planned.total(phase) > DEVICE_BYTES]
    if not over:
        return []
    limit = size_text(DEVICE_BYTES)
    lines = [f"This exceeds {limit} in {', '.join(over)}. One change would make it:"]
    for change, other in _alternatives(config, planned):
        better = [
            f"{phase} {size_text(other.total(phase))}"
            for phase in over
            if phase in other.phases and other.total(phase) < _WORTHWHILE * planned.total(phase)
        ]
        if better:
            lines.append(f"  {change}: {', '.join(better)}")
    return lines


def _alternatives(config: RLConfig, planned: MemoryPlan) -> Iterator[tuple[str, MemoryPlan]]:
    """Yield single changes, each with the plan that it leads to."""
    launch, facts = planned.launch, planned.facts

    def with_settings(**settings: Any) -> MemoryPlan:
        return plan(replace(config, **settings), launch, facts)

    if not config.gradient_checkpointing:
        yield "--gradient_checkpointing=true", with_settings(gradient_checkpointing=True)
    if config.microbatch_size > 1:
        yield "--microbatch_size=1", with_settings(microbatch_size=1)
    batch = min(config.num_envs, config.sampling_batch)
    if planned.total("sampling") > DEVICE_BYTES and batch > 1:
        smaller = _fitting_batch(planned, "sampling", batch)
        yield f"--sampling_batch={smaller}", with_settings(sampling_batch=smaller)
    batch = config.eval.batch_size
    if planned.total("evaluation") > DEVICE_BYTES and batch > 1:
        smaller = _fitting_batch(planned, "evaluation", batch)
        smaller_eval = replace(config.eval, batch_size=smaller)
        yield f"--eval.batch_size={smaller}", with_settings(eval=smaller_eval)
    yield from _other_launches(config, planned)
    if not config.lora.rank:
        lora = replace(config, lora=replace(config.lora, rank=_LORA_RANK))
        counts = count_parameters(facts.architecture, lora, facts.images is not None)
        yield f"--lora.rank={_LORA_RANK}", plan(lora, launch, replace(facts, counts=counts))


def _other_launches(config: RLConfig, planned: MemoryPlan) -> Iterator[tuple[str, MemoryPlan]]:
    """Yield single changes of a DeepSpeed launch, each with the plan that it leads to."""
    launch, facts = planned.launch, planned.facts
    if launch.zero_stage is None:
        return
    if launch.zero_stage < 3:
        yield "zero_stage: 3", plan(config, replace(launch, zero_stage=3), facts)
    if launch.offload_optimizer == "none":
        offloaded = replace(launch, offload_optimizer="cpu")
        yield "offload_optimizer_device: cpu", plan(config, offloaded, facts)


def _fitting_batch(planned: MemoryPlan, phase: str, batch: int) -> int:
    """Return the largest power of two below `batch` that keeps a phase within nine tenths of
    DEVICE_BYTES, or 1 if none does.
    """
    parts = planned.phases[phase]
    per_dialogue = (parts["key-value cache"] + max(parts[LAYER], parts[LOGITS])) / batch
    free = _FILLED * DEVICE_BYTES - planned.total(phase) + per_dialogue * batch
    return 2 ** int(math.log2(max(1, min(free / per_dialogue, batch - 1))))
