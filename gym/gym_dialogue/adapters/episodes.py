"""What every adapter needs of episodes: environments from what a user gives, and replies."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from gym_dialogue.env import DialogueEnv
from gym_dialogue.errors import InputError
from gym_dialogue.make import EnvConfig, make_envs
from gym_dialogue.messages import Reply


def make(env_id: str, kwargs: Mapping[str, Any] | None = None, count: int = 1) -> list[Any]:
    """Return so many environments. Raises InputError for an unknown id, arguments that it does not
    take, and an environment that is no dialogue.
    """
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise InputError(f"kwargs={kwargs!r}: must be the environment's arguments by name")
    envs = make_envs(EnvConfig(env_id, dict(kwargs or {})), count)
    if not isinstance(envs[0].unwrapped, DialogueEnv):
        raise InputError(f"environment {env_id}: is none of dialogues with a verifier")
    return envs


def check_seeds(episodes: int, seed: int) -> range:
    """Return the seeds of so many episodes. Raises InputError for none, and for negative seeds."""
    if episodes < 1:
        raise InputError(f"episodes={episodes}: must be at least 1")
    if not 0 <= seed < 2**63 - episodes:
        raise InputError(f"seed={seed}: must be from 0 to 2**63 - 1")
    return range(seed, seed + episodes)


def reply(text: str, finish: str = "") -> Reply:
    """Return a model's text as a reply, without what no file and no protocol can hold."""
    return Reply(text.encode("utf-8", "replace").decode(), finish=finish)


def json_object(text: str) -> dict[str, Any]:
    """Return the JSON object of a flag. Raises what argparse says in one line."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"must be a JSON object: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, not {text}")
    return value


def at_least_one(text: str) -> int:
    """Return the whole number of a flag. Raises what argparse says in one line."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text}")
    return int(text)
