"""What samples the replies: every sampler on the same dialogues."""

from __future__ import annotations

import numpy as np

from gym_command.run_dir import saved_checkpoints
from gym_dialogue import rollout
from gym_dialogue.make import EnvConfig, make_envs
from gym_policy import ModelPolicy, load_model, load_renderer
from rl.bench.config import Config, seconds
from rl.bench.table import Ratio
from rl.config import RLConfig as TrainConfig
from rl.tasks import TaskStream

ROUTES = {"verify_iter": 2, "on_failure": "go_on", "max_legs": 4, "straight_line_length": 3}
SETTINGS = {
    "dialogues of up to 5 replies": (EnvConfig(kwargs={"verify_iter": 5}), 1, 1),
    "groups of 8 on one hand": (EnvConfig(kwargs={"verify_iter": 1}), 8, 1),
    "routes, up to 2 replies a position": (EnvConfig("gym_virl/Navigation-v0", ROUTES), 1, 32),
}
"""What is played, the size of groups on one puzzle, and how many turns an episode has at least."""


def bench_rollout(config: Config) -> list[Ratio]:
    """Turns per second of each sampler, and of one dialogue at a time, on the same episodes."""
    path = saved_checkpoints(config.model)[-1]
    model, renderer = load_model(path), load_renderer(path)
    found = []
    for what, (env, group, length) in SETTINGS.items():
        rates: dict[str, list[float]] = {}
        envs = make_envs(env, max(1, config.turns // length))
        for repeat in range(config.repeats):
            for name in (*config.samplers, "single"):
                is_single = name == "single"
                policy = ModelPolicy(
                    model,
                    renderer,
                    max_new_tokens=config.max_new_tokens,
                    sampler="generate" if is_single else name,
                )
                turns = config.single_turns if is_single else config.turns
                stream = TaskStream(TrainConfig(turns_per_update=turns), group, repeat + 1, 0, 1)
                mine = envs[:1] if is_single else envs
                taken = seconds(rollout, mine, policy, stream, stream.ended)
                rates.setdefault(name, []).append(stream.played_turns / taken)
        medians = {name: float(np.median(values)) for name, values in rates.items()}
        said = ", ".join(f"{name} {rate:,.0f}" for name, rate in medians.items())
        print(f"rollout  {what}, turns/s: {said}")
        first = config.samplers[0]
        found += [
            Ratio("rollout", f"{what}: {first} against {name}", medians[first] / rate)
            for name, rate in medians.items()
            if name != first
        ]
    return found
