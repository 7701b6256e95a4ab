"""The sections in turn, and a table of their ratios."""

from __future__ import annotations

import os
import sys

import torch

from rl.bench.config import BenchConfig, check_config
from rl.bench.device import processor
from rl.bench.end_to_end import bench_end_to_end
from rl.bench.environments import bench_env, bench_navigation
from rl.bench.learner import bench_learner
from rl.bench.limits import bench_limits
from rl.bench.memory import bench_memory
from rl.bench.peer import bench_peer
from rl.bench.rollout import bench_rollout
from rl.bench.table import Ratio, print_table
from rl.bench.vision import bench_vision

SECTIONS = {
    "env": bench_env,
    "navigation": bench_navigation,
    "rollout": bench_rollout,
    "learner": bench_learner,
    "memory": bench_memory,
    "end_to_end": bench_end_to_end,
    "peer": bench_peer,
    "limits": bench_limits,
    "vision": bench_vision,
}


def main(config: BenchConfig) -> None:
    """Run the sections of the configuration, then print their ratios."""
    check_config(config)
    print(
        f"machine  {processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads of "
        f"torch {torch.__version__}, Python {sys.version.split()[0]}"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "")
    )
    ratios: list[Ratio] = []
    for name, bench in SECTIONS.items():
        if name in config.sections:
            ratios += bench(config)
    if ratios:
        print_table(ratios)
