"""Renamed keys of a configuration, in files, as flags, and in the settings of a run."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import yaml

from gym_command.command import parse_config
from gym_command.run_dir import RunDir
from gym_dialogue import InputError


@dataclass
class _Config:
    """A configuration whose key `steps` is now `turns`."""

    OLD_KEYS: ClassVar[dict[str, str]] = {"steps": "turns"}
    run_dir: str = ""
    turns: int = 1
    lr: float = 1.0


@pytest.mark.parametrize(
    ("argv", "turns"),
    [
        (["--steps=3"], 3),
        (["--steps", "3"], 3),
        (["--config=FILE"], 2),
        (["--config", "FILE"], 2),
        (["--config=FILE", "--turns=4"], 4),
        (["--turns=4", "--config=FILE"], 2),
    ],
)
def test_an_old_key_sets_the_present_one(argv, turns, tmp_path):
    file = tmp_path / "old.yaml"
    file.write_text("steps: 2\nlr: 0.5\n")
    argv = [argument.replace("FILE", str(file)) for argument in argv]
    assert parse_config(_Config, argv).turns == turns


def test_an_unknown_key_beside_an_old_one_is_one_line(tmp_path):
    file = tmp_path / "old.yaml"
    file.write_text("steps: 2\nspeed: 1\n")
    with pytest.raises(InputError, match="'speed' is not accepted"):
        parse_config(_Config, [f"--config={file}"])


def test_a_run_with_an_old_key_is_the_same_run(tmp_path):
    settings = {"run_dir": str(tmp_path), "steps": 2, "lr": 1.0}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    run = RunDir(tmp_path)
    assert run.holds_run_of(_Config(str(tmp_path), turns=2), ())
    with pytest.raises(InputError, match=r"turns=3, but the run in .* has 2"):
        run.holds_run_of(_Config(str(tmp_path), turns=3), ())


def test_metrics_with_old_names_are_read_under_the_present_ones(tmp_path):
    run = RunDir(tmp_path)
    run.metrics_file.write_text('{"update": 1, "kl": 0.1, "kl_start": 0.2, "entropy": 0.3}\n')
    assert run.read_metrics() == [{"update": 1, "approx_kl": 0.1, "ref_kl": 0.2, "entropy": 0.3}]
