"""Makes registered environments from plain data, such as a configuration file holds."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import gymnasium

from gym_dialogue.errors import InputError, one_line
from gym_dialogue.released import require_released

Plain = bool | int | float | str | None
Kwargs = dict[str, Plain | list[Plain] | dict[str, Plain | list[Plain] | dict[str, Plain]]]
"""Keyword arguments from a file or a flag: plain data only, so nothing can be imported by it."""


@dataclass
class EnvConfig:
    """A registered environment and how it is made."""

    id: str = "gym_cards/GeneralPoint-oneline-v0"
    """Gymnasium id. The package that registers it is imported first: the one before the colon in
    `package:id`, else the id's namespace."""
    kwargs: Kwargs = field(default_factory=dict)
    """Keyword arguments of the environment."""


def make_envs(config: EnvConfig, count: int) -> list[gymnasium.Env]:
    """Return `count` environments. Raises InputError for an unknown id or an argument it does not
    take.
    """
    for name, value in config.kwargs.items():
        require_released(name, value)
    namespace, slash, _ = config.id.partition("/")
    env_id = config.id if ":" in config.id or not slash else f"{namespace}:{config.id}"
    module, colon, _ = env_id.rpartition(":")
    if colon and not all(part.isidentifier() for part in module.split(".")):
        raise InputError(
            f"environment {config.id!r}: must be NAME-vN, NAMESPACE/NAME-vN or MODULE:ID"
        )
    kwargs: dict[str, Any] = dict(config.kwargs)
    try:
        return [gymnasium.make(env_id, **kwargs) for _ in range(count)]
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise InputError(f"environment {config.id}: {one_line(error)}") from error
    except TypeError as error:
        if not re.search("unexpected keyword argument|multiple values", str(error)):
            raise
        name = str(error).rpartition("argument ")[2].split("'")[1]
        raise InputError(f"environment {config.id}: takes no argument {name!r}") from error


def with_prompt_file(config: EnvConfig, prompt_file: str | None) -> EnvConfig:
    """Return the environment with the wording of a file, unless it names one itself."""
    if prompt_file is None or "prompt_file" in config.kwargs:
        return config
    return EnvConfig(config.id, config.kwargs | {"prompt_file": prompt_file})
