"""Values of options that describe no run are one line before anything is made (16: 20)."""

import dataclasses
from typing import get_type_hints

import pytest

from evaluation.evaluate import CommandConfig
from evaluation.study.config import StudyConfig
from gym_command.command import parse_config
from gym_command.ranges import check_ranges
from gym_dialogue import InputError
from gym_dialogue.make import EnvConfig, make_envs
from rl.config import RLConfig as RLConfig
from rl.config import check_config
from sft.initial import InitialConfig
from sft.rejection import RejectionConfig as OwnConfig

COMMANDS = [RLConfig, InitialConfig, OwnConfig, CommandConfig, StudyConfig]


def _numbers(config_class, prefix=""):
    """(dotted name, "int" or "float") of every number among a command's options."""
    for name, hint in get_type_hints(config_class).items():
        if dataclasses.is_dataclass(hint):
            yield from _numbers(hint, f"{prefix}{name}.")
        for kind in (int, float):
            if hint in (kind, kind | None):
                yield f"{prefix}{name}", kind.__name__


CASES = [(c, *number) for c in COMMANDS for number in _numbers(c)]


@pytest.mark.parametrize(("config_class", "name", "kind"), CASES)
def test_a_number_that_is_none_is_refused_by_name(config_class, name, kind):
    values = [".inf", "-.inf", ".nan", "1e400"] if kind == "float" else [2**32, -(2**32), 10**30]
    for value in values:
        with pytest.raises(InputError, match=f"{name}=.*: must be ") as error:
            parse_config(config_class, [f"--{name}={value}"])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config_class", "option"),
    [
        (RLConfig, "adam_eps=-1e-8"),
        (RLConfig, "adam_eps=0"),
        (RLConfig, "weight_decay=-0.1"),
        (RLConfig, "temperature=1e-300"),
        (RLConfig, "ppo.value_lr=-1"),
        (RLConfig, "ppo.value_hidden=[8,0]"),
        (RLConfig, "ppo.value_warmup=-1"),
        (RLConfig, "lr_warmup=-1"),
        (RLConfig, "lora.rank=-1"),
        (RLConfig, "grpo.group_size=1"),
        (RLConfig, "max_new_tokens=1073741824"),
        (RLConfig, "part_lr.vision=0"),
        (RLConfig, "monitor.temperature=-1"),
        (InitialConfig, "weight_decay=-1"),
        (InitialConfig, "adam_beta2=1"),
        (InitialConfig, "probe_every=0"),
        (InitialConfig, 'sources=[{"share": -1}]'),
        (InitialConfig, 'sources=[{"error_rate": 1.5}]'),
        (InitialConfig, 'sources=[{"env": {"kwargs": {"verify_iter": .inf}}}]'),
        (OwnConfig, "temperature=0"),
        (StudyConfig, 'known_arms=[{"name": "a", "package": "rl", "config": "c", "every": 0}]'),
    ],
)
def test_a_number_out_of_its_range_is_refused(config_class, option):
    with pytest.raises(InputError, match="must be ") as error:
        parse_config(config_class, [f"--{option}"])
    assert "\n" not in str(error.value)


def test_every_default_is_in_its_range_and_a_library_call_is_checked_too():
    for config_class in COMMANDS:
        check_ranges(config_class())
    with pytest.raises(InputError, match="adam_eps"):
        check_config(RLConfig(model="x", adam_eps=-1.0))


@pytest.mark.parametrize(
    "env_id", ["..", ".", "../x", "/", ":x", "a..b/c", "a/b/c-v0", "a b/c", ""]
)
def test_environment_ids_that_are_none(env_id):
    with pytest.raises(InputError, match="environment "):
        make_envs(EnvConfig(env_id), 1)


def test_an_argument_that_is_the_environments_name():
    with pytest.raises(InputError, match="takes no argument 'id'"):
        make_envs(EnvConfig(kwargs={"id": "x"}), 1)
