"""The sections in turn."""

from __future__ import annotations

import sys

import torch

from rl.bench.config import Config


def main(config: Config) -> None:
    """The command."""
    print(
        f"machine  {torch.get_num_threads()} threads of torch {torch.__version__}, "
        f"Python {sys.version.split()[0]}"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "")
    )
    if "env" in config.sections:
        from rl.bench.environments import bench_env

        bench_env()
    if "navigation" in config.sections:
        from rl.bench.environments import bench_navigation

        bench_navigation(config.episodes)
    if "rollout" in config.sections:
        from rl.bench.rollout import bench_rollout

        bench_rollout(config)
    if "learner" in config.sections:
        from rl.bench.learner import bench_learner

        bench_learner(config)
    if "memory" in config.sections:
        from rl.bench.memory import bench_memory

        bench_memory(config)
    if "end_to_end" in config.sections:
        from rl.bench.end_to_end import bench_end_to_end

        bench_end_to_end(config)
    if "peer" in config.sections:
        from rl.bench.peer import bench_peer

        bench_peer(config)
    if "limits" in config.sections:
        from rl.bench.limits import bench_limits

        bench_limits(config)
    if "vision" in config.sections:
        from rl.bench.vision import bench_vision

        bench_vision(config)
