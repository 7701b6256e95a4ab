"""Samplers, compared on the same dialogues."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium import Env

from gym_command.run_dir import saved_checkpoints
from gym_dialogue import rollout
from gym_dialogue.make import EnvConfig, make_envs
from gym_policy import ModelPolicy, load_model, load_renderer
from rl.bench.config import BenchConfig, seconds
from rl.bench.table import Ratio
from rl.config import RLConfig
from rl.tasks import TaskStream

SETTINGS = {
    "dialogues of up to 5 replies": (EnvConfig(kwargs={"verify_iter": 5}), 1, 1),
    "groups of 8 on one hand": (EnvConfig(kwargs={"verify_iter": 1}), 8, 1),
    "routes, up to 2 replies a position": (
        EnvConfig(
            "gym_virl/Navigation-v0",
            {"verify_iter": 2, "on_failure": "go_on", "max_legs": 4, "straight_line_length": 3},
        ),
        1,
        32,
    ),
}
"""Name -> environment, group size, and the least number of turns in an episode."""


def bench_rollout(config: BenchConfig) -> list[Ratio]:
    """Measure turns per second of each sampler, and of one dialogue at a time, on the same
    episodes.
    """
    path = saved_checkpoints(config.model)[-1]
    model, renderer = load_model(path), load_renderer(path)
    ratios = []
    for what, (env, group, length) in SETTINGS.items():
        rates: dict[str, list[float]] = {}
        envs = make_envs(env, max(1, config.turns // length))
        for repeat in range(config.repeats):
            settings = RLConfig(turns_per_update=config.turns)
            for sampler in config.samplers:
                policy = ModelPolicy(
                    model, renderer, max_new_tokens=config.max_new_tokens, sampler=sampler
                )
                rate = _turns_per_second(policy, envs, settings, group, repeat + 1)
                rates.setdefault(sampler, []).append(rate)
            policy = ModelPolicy(
                model, renderer, max_new_tokens=config.max_new_tokens, sampler="generate"
            )
            settings = RLConfig(turns_per_update=config.single_turns)
            rate = _turns_per_second(policy, envs[:1], settings, group, repeat + 1)
            rates.setdefault("single", []).append(rate)
        medians = {name: float(np.median(values)) for name, values in rates.items()}
        listed = ", ".join(f"{name} {rate:,.0f}" for name, rate in medians.items())
        print(f"rollout  {what}, turns/s: {listed}")
        first = config.samplers[0]
        ratios += [
            Ratio("rollout", f"{what}: {first} against {name}", medians[first] / rate)
            for name, rate in medians.items()
            if name != first
        ]
    return ratios


def _turns_per_second(
    policy: ModelPolicy, envs: Sequence[Env], settings: RLConfig, group: int, update: int
) -> float:
    stream = TaskStream(settings, group, update, 0, 1)
    taken = seconds(rollout, envs, policy, stream, stream.ended)
    return stream.played_turns / taken
