"""What a task is evaluated on: named environments, in and out of distribution."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gym_dialogue import InputError
from gym_dialogue.command import EnvConfig, parse_config

CONFIG_DIR = Path(__file__).parent / "configs"


@dataclass
class SuiteConfig:
    """One set of episodes."""

    name: str
    """Short name, a key of the summary and a row of the table."""
    env: EnvConfig
    """The environment that deals them."""
    title: str = ""
    """What the table calls it; the name if empty."""
    shift: Literal["none", "puzzle", "rule", "visual"] = "none"
    """What differs from training: nothing, held-out puzzles, the rule, or the looks."""


@dataclass
class TaskConfig:
    """The suites of a task."""

    task: str
    """The task's name, as in the names of the launchers."""
    suites: list[SuiteConfig] = field(default_factory=list)
    """The suites, in the order of the table."""


def load_task(name_or_file: str) -> TaskConfig:
    """A task by name (a file of evaluation/configs) or by YAML file. Raises InputError."""
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        path = CONFIG_DIR / f"{name_or_file}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in CONFIG_DIR.glob("*.yaml")))
            raise InputError(f"task {name_or_file!r}: must be one of {known}, or a YAML file")
    task = parse_config(TaskConfig, [f"--config={path}"])
    if not task.suites:
        raise InputError(f"task file {path}: lists no suites")
    names = [suite.name for suite in task.suites]
    if len(set(names)) != len(names):
        raise InputError(f"task file {path}: two suites have the same name")
    return task
