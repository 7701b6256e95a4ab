"""Episodes that every door is held against: the noisy oracle's, played by `rollout`."""

from __future__ import annotations

from typing import Any

from gym_dialogue import Episode, NoisyOraclePolicy, Task, rollout
from gym_dialogue.make import EnvConfig, make_envs

ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "gym_cards/GeneralPoint-oneline-v0": {"verify_iter": 3},
    "gym_virl/Navigation-v0": {"verify_iter": 2, "max_legs": 2, "straight_line_length": 3},
}
EPISODES = 6


def played(env_id: str, **kwargs: Any) -> list[Episode]:
    """Return the episodes seeded 0, 1, ..., with mistakes in half of the replies."""
    envs = make_envs(EnvConfig(env_id, ENVIRONMENTS[env_id] | kwargs), 1)
    tasks = [Task(seed, (seed,)) for seed in range(EPISODES)]
    return rollout(envs, NoisyOraclePolicy(0.5), tasks)


def replies(episodes: list[Episode]) -> list[str]:
    """Return all replies in order."""
    return [turn.reply.text for episode in episodes for turn in episode.turns]
