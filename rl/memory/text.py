"""A plan as text, as `--dry_run` prints it."""

from __future__ import annotations

import os
from dataclasses import asdict

import yaml

from rl.backend import check_stage
from rl.config import RLConfig
from rl.devices import Launch, read_launch
from rl.memory.activations import LAYER, LOGITS
from rl.memory.advice import advice
from rl.memory.engine import describe_engine, engine_memory
from rl.memory.plan import MemoryPlan, plan
from rl.memory.units import GIB, MIB, size_text


def print_plan(config: RLConfig) -> None:
    """Print the resolved configuration, the launch, and the memory that the run will take."""
    print(yaml.safe_dump(asdict(config), sort_keys=False))
    print("\n".join(describe(config, read_launch(os.environ.get("ACCELERATE_CONFIG")))))


def describe(config: RLConfig, launch: Launch) -> list[str]:
    """Return a run's plan as lines. Raises InputError for settings that the launch rules out."""
    check_stage(config, launch.zero_stage)
    planned = plan(config, launch)
    peak = size_text(planned.peak)
    lines = [
        *_summary(config, planned),
        "",
        *table(planned),
        "(in brackets: not there when the phase is fullest)",
        "",
        f"Peak: {planned.peak_phase}, {peak}, with replies as long as they may be",
    ]
    if config.sampler == "vllm":
        facts = planned.facts
        processes = launch.processes  # of all machines
        engine = engine_memory(config, processes, facts.architecture, facts.counts, facts.lengths)
        lines += describe_engine(engine, planned.peak, launch.on_cpu)
    if launch.on_cpu:
        total = size_text(launch.processes * planned.peak)
        return [*lines, f"All processes: {total} of host memory"]
    parts = ", ".join(f"{size_text(size)} of {part}" for part, size in planned.host.items())
    lines += [
        "On top: the CUDA context and what the allocator leaves unused, a few GiB",
        f"Host, each machine: {size_text(planned.host_peak)} ({parts})",
    ]
    return lines + advice(config, planned)


def _summary(config: RLConfig, planned: MemoryPlan) -> list[str]:
    """Return lines on the launch, the model and the longest dialogue."""
    counts, lengths = planned.facts.counts, planned.facts.lengths
    replies, source = lengths.verify_iter, planned.facts.architecture.name_or_path
    longest = lengths.dialogue(replies, config.max_new_tokens)
    how = "by its tokenizer" if lengths.counted else "guessed: its tokenizer is not on this machine"
    images = planned.facts.images
    seen = []
    if images is not None:
        whose = "by its processor" if images.counted else "a full image: its processor is not here"
        seen = [
            f"Image: {images.positions:,} positions of the vision part, {images.features:,} "
            f"features for the decoder ({whose})"
        ]
    return [
        f"Launch: {planned.launch}",
        f"Model: {config.model}{'' if source == config.model else f' (from {source})'}: "
        f"{counts.total / 1e6:,.1f} M parameters, {counts.trained / 1e6:,.1f} M of them trained",
        f"Dialogue: up to {longest:,} tokens: a prompt of {lengths.prompt}, {replies} replies of "
        f"{config.max_new_tokens}, {lengths.feedback} between them ({how})",
        *seen,
    ]


def table(planned: MemoryPlan) -> list[str]:
    """Return a table of parts by phase, with the sum of each phase. Values in brackets are those
    that the sum leaves out.
    """
    phases = planned.phases.values()
    parts = list(dict.fromkeys(part for phase in phases for part in phase))
    unit, name = (GIB, "GiB") if planned.peak >= GIB else (MIB, "MiB")
    place = "process" if planned.launch.on_cpu else "device"
    rows = [(f"{name} a {place}", [f"{phase} " for phase in planned.phases])]
    for part in parts:
        if any(phase.get(part) for phase in phases):
            rows.append((part, [_cell(phase, part, unit) for phase in phases]))
    rows.append(("sum", [f"{planned.total(phase) / unit:.1f} " for phase in planned.phases]))
    width = max(len(part) for part, _ in rows)
    return [f"{part:{width}}" + "".join(f"{cell:>12}" for cell in cells) for part, cells in rows]


def _cell(phase: dict[str, int], part: str, unit: int) -> str:
    size = phase.get(part, 0)
    if part in (LAYER, LOGITS) and size < max(phase.get(LAYER, 0), phase.get(LOGITS, 0)):
        return f"({size / unit:.1f})"
    return f"{size / unit:.1f} " if size else "- "
