"""The memory of the vLLM servers that sample for a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from transformers import PreTrainedConfig

from gym_policy.models.architecture import text_sizes
from rl.config import RLConfig
from rl.memory.lengths import Lengths
from rl.memory.parameters import Counts
from rl.memory.units import DEVICE_BYTES, size_text


@dataclass(frozen=True)
class EngineMemory:
    """Bytes of each of `servers` servers: weights, and keys and values of its dialogues."""

    servers: int
    dialogues: int
    weights: int
    cache: int

    @property
    def total(self) -> int:
        """Bytes of a server. Its activations, a few GiB, are not counted."""
        return self.weights + self.cache


def engine_memory(
    config: RLConfig,
    processes: int,
    architecture: PreTrainedConfig,
    counts: Counts,
    lengths: Lengths,
) -> EngineMemory:
    """Return the memory of servers that compute in the run's dtype and hold all dialogues in play
    at their full length, each prefix once. A tied output head is served apart.
    """
    sizes, size = text_sizes(architecture), 2 if config.dtype == "bfloat16" else 4
    servers = max(1, len(config.engines))
    in_play = processes * min(config.num_envs, config.sampling_batch)
    dialogues = math.ceil(in_play / servers)
    tokens = lengths.dialogue(lengths.verify_iter, config.max_new_tokens)
    is_tied = getattr(architecture, "tie_word_embeddings", False)
    head = sizes.vocabulary * sizes.hidden if is_tied else 0
    return EngineMemory(
        servers,
        dialogues,
        weights=size * (counts.total + head),
        cache=size * dialogues * tokens * 2 * sizes.keys * sizes.layers,
    )


def describe_engine(engine: EngineMemory, peak: int, on_cpu: bool) -> list[str]:
    """Return lines on the servers' memory: by themselves, and beside a run whose peak on a device
    is `peak`.
    """
    lines = [
        f"Engine, each of {engine.servers}: {size_text(engine.weights)} of weights and "
        f"{size_text(engine.cache)} of keys and values of {engine.dialogues:,} dialogues, "
        f"{size_text(engine.total)} in all (vLLM takes what there is: --gpu-memory-utilization)"
    ]
    if on_cpu:
        return lines
    shared = peak + engine.total
    verdict = "does not fit" if shared > DEVICE_BYTES else "fits"
    return [
        *lines,
        f"Engine on a GPU that learns too: {size_text(shared)}, which {verdict} in "
        f"{size_text(DEVICE_BYTES)}; else give it GPUs of its own",
    ]
