"""What a task is evaluated on: named environments, in and out of distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from gym_command.command import parse_config
from gym_dialogue import InputError, NothingToPlayError
from gym_dialogue.make import EnvConfig, Kwargs, make_envs, with_prompt_file

SHIFT_TITLES = {
    "none": "In distribution",
    "puzzle": "New puzzles",
    "rule": "Another rule",
    "visual": "Other looks",
}
"""What a page calls the shifts of SuiteConfig."""

CONFIG_DIR = Path(__file__).parent / "configs"


@dataclass
class SuiteConfig:
    """One set of episodes."""

    name: str
    """Short name, a key of the summary and a row of the table."""
    env: EnvConfig = field(default_factory=EnvConfig)
    """The environment that deals them."""
    title: str = ""
    """What the table calls it; the name if empty."""
    shift: Literal["none", "puzzle", "rule", "visual"] = "none"
    """What differs from training: nothing, held-out puzzles, the rule, or the looks."""
    optional: bool = False
    """Left out where its environment has nothing to play, such as a file of routes of which none is
    held out; else that is an error."""


@dataclass
class TaskConfig:
    """The suites of a task."""

    task: str
    """The task's name, as in the names of the launchers."""
    suites: list[SuiteConfig] = field(default_factory=list)
    """The suites, in the order of the table."""
    suites_of: str | None = None
    """Another task, by name or file, whose suites these are, under the `env_kwargs` of this one."""
    env_kwargs: Kwargs = field(default_factory=dict)
    """Keyword arguments of every suite's environment, unless the suite gives them itself."""


@dataclass
class EnvOptions:
    """What an evaluation changes of every suite's environment."""

    kwargs: Kwargs = field(default_factory=dict)
    """Keyword arguments, in place of a suite's own."""


def load_task(name_or_file: str) -> TaskConfig:
    """Load a task by name (a file of evaluation/configs) or by YAML file. Its suites come with all
    of their keyword arguments. Raises InputError.
    """
    path = _file_of(name_or_file)
    task = parse_config(TaskConfig, [f"--config={path}"])
    env_kwargs = task.env_kwargs
    if bool(task.suites) == bool(task.suites_of):
        raise InputError(f"task file {path}: must list suites, or name a task in suites_of")
    if task.suites_of:
        base = parse_config(TaskConfig, [f"--config={_file_of(task.suites_of)}"])
        if base.suites_of:
            raise InputError(f"task file {path}: suites_of must name a task with suites of its own")
        task.suites, env_kwargs = base.suites, base.env_kwargs | task.env_kwargs
    names = [suite.name for suite in task.suites]
    if len(set(names)) != len(names):
        raise InputError(f"task file {path}: two suites have the same name")
    suites = [
        replace(suite, env=EnvConfig(suite.env.id, env_kwargs | suite.env.kwargs))
        for suite in task.suites
    ]
    return TaskConfig(task.task, suites)


def with_options(suites: Sequence[SuiteConfig], kwargs: Kwargs) -> list[SuiteConfig]:
    """Return suites with arguments of their environments changed. Raises InputError."""
    if "verify_iter" in kwargs:
        raise InputError("env.kwargs.verify_iter: is of the whole evaluation: --eval.verify_iter")
    return [
        replace(suite, env=EnvConfig(suite.env.id, suite.env.kwargs | kwargs)) for suite in suites
    ]


def playable(suites: Sequence[SuiteConfig], prompt_file: str | None) -> list[SuiteConfig]:
    """Return suites without the optional ones that have nothing to play; a line is printed for each
    of these. Raises InputError.
    """
    return [suite for suite in suites if not suite.optional or _has_episodes(suite, prompt_file)]


def _has_episodes(suite: SuiteConfig, prompt_file: str | None) -> bool:
    (env,) = make_envs(with_prompt_file(suite.env, prompt_file), 1)
    try:
        env.reset(seed=0)
    except NothingToPlayError as error:
        print(f"suite {suite.name}: left out: {error}")
        return False
    return True


def _file_of(name_or_file: str) -> Path:
    path = Path(name_or_file)
    if path.suffix in (".yaml", ".yml"):
        return path
    path = CONFIG_DIR / f"{name_or_file}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in CONFIG_DIR.glob("*.yaml")))
        raise InputError(f"task {name_or_file!r}: must be one of {known}, or a YAML file")
    return path
