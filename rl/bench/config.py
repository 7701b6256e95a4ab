"""What is measured, and how much of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from gym_dialogue import InputError
from gym_policy.samplers.model_policy import SamplerName

Section = Literal[
    "env",
    "navigation",
    "rollout",
    "learner",
    "memory",
    "end_to_end",
    "peer",
    "limits",
    "vision",
]


@dataclass
class BenchConfig:
    """Measure environments, sampling and learning, by ratios within one run."""

    model: str = ""
    """The checkpoint that sections rollout, learner, end_to_end and peer use, and limits the
    tokenizer of."""
    sections: list[Section] = field(
        default_factory=lambda: ["env", "navigation", "rollout", "learner", "memory", "end_to_end"]
    )
    """What is measured."""
    turns: int = 512
    """Turns of a batched measurement, at least."""
    single_turns: int = 48
    """Turns of the measurement with one environment and minibatch 1."""
    max_new_tokens: int = 40
    """Tokens of a reply in sections rollout, learner, end_to_end and peer."""
    episodes: int = 10_000
    """Episodes over which section navigation watches memory."""
    repeats: int = 3
    """Measurements of each kind, in turn; the median counts."""
    vocabulary: int = 128_256
    """Of section memory: that of Llama 3."""
    memory_tokens: int = 2048
    """Tokens of each of its 8 sequences; all of them are scored."""
    memory_shapes: list[str] = field(default_factory=lambda: ["llama-1b", "llama-8b"])
    """Of the models whose memory it counts without allocating any: names as in `shape`."""
    samplers: list[SamplerName] = field(
        default_factory=lambda: ["cached", "cached_once", "generate", "paged"]
    )
    """What section rollout compares, the first with all others and with one at a time."""
    peer_prompts: int = 32
    """Prompts of an update in section peer, each sampled 8 times."""
    peer_updates: int = 6
    """Updates of each side there, the first of which does not count."""
    shape: str = "llama-1b"
    """Of section limits: llama-1b or llama-8b, with random weights, or a directory or hub name with
    a Llama's configuration."""
    limit_batches: list[int] = field(default_factory=lambda: [64, 256])
    """Dialogues that it samples together."""
    limit_prompt: int = 512
    """Tokens of its prompts."""
    limit_reply: int = 128
    """Tokens of its replies."""
    limit_turns: int = 256
    """Turns that its update samples and learns from, many at once."""
    limit_single_turns: int = 8
    """The same one at a time."""
    architecture: str = "meta-llama/Llama-3.2-11B-Vision-Instruct"
    """What section vision builds with random weights: a directory or a hub name with a Mllama's
    configuration."""
    vision_tokenizer: str = ""
    """A checkpoint whose tokenizer section vision uses, in place of the architecture's own."""
    vision_turns: int = 64
    """Turns of the update in section vision."""
    vision_batch: int = 16
    """Dialogues that section vision samples together; it learns from two together."""
    vision_new_tokens: int = 128
    """Tokens of each reply there: random weights hardly ever end one."""
    lora_rank: int = 16
    """Of the adapters that sections limits (its update) and vision train, on all linear layers but
    the vision tower's."""


def check_config(config: BenchConfig) -> None:
    """Raise InputError for values that leave nothing to measure."""
    for name, least in (
        ("turns", 1),
        ("single_turns", 1),
        ("max_new_tokens", 1),
        ("episodes", 1),
        ("repeats", 1),
        ("vocabulary", 1),
        ("memory_tokens", 2),
        ("peer_prompts", 1),
        ("peer_updates", 2),
        ("limit_prompt", 1),
        ("limit_reply", 2),
        ("limit_turns", 1),
        ("limit_single_turns", 1),
    ):
        if getattr(config, name) < least:
            raise InputError(f"{name}={getattr(config, name)}: must be at least {least}")
    for name in ("sections", "samplers", "limit_batches"):
        if not getattr(config, name):
            raise InputError(f"{name}: must name at least one")


def seconds(function: Callable[..., object], *args: object) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    function(*args)
    return time.perf_counter() - began
