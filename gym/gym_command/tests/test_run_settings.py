"""A run's settings: whether it is the same run, and what it left."""

from dataclasses import asdict, dataclass, field

import pytest
import yaml

from gym_command.run_dir import RunDir
from gym_dialogue import InputError


@dataclass
class _Inner:
    top_p: float = 1.0
    kwargs: dict = field(default_factory=dict)


@dataclass
class _Config:
    run_dir: str = ""
    lr: float = 1.0
    inner: _Inner = field(default_factory=_Inner)


def _write(config, without=()):
    settings = asdict(config)
    for key in without:
        del settings["inner"][key]
    with open(f"{config.run_dir}/config.yaml", "w") as file:
        yaml.safe_dump(settings, file)


def test_a_key_that_is_newer_than_the_run_had_its_default(tmp_path):
    run = str(tmp_path)
    _write(_Config(run, inner=_Inner(kwargs={"a": 1})), without=["top_p"])
    assert RunDir(run).holds_run_of(_Config(run, inner=_Inner(kwargs={"a": 1})), ())
    with pytest.raises(InputError, match=r"inner.top_p=0.5, but the run in .* has 1.0"):
        RunDir(run).holds_run_of(_Config(run, inner=_Inner(0.5, {"a": 1})), ())
    with pytest.raises(InputError, match=r"inner.kwargs.a=None, but the run in .* has 1"):
        RunDir(run).holds_run_of(_Config(run), ())
    with pytest.raises(InputError, match=r"lr=2.0, but"):
        RunDir(run).holds_run_of(_Config(run, 2.0, _Inner(kwargs={"a": 1})), ())


def test_settings_that_cannot_be_read_are_one_line(tmp_path):
    assert RunDir(tmp_path).settings() == {}
    (tmp_path / "config.yaml").write_text("a: [\n")
    with pytest.raises(InputError, match=r"config\.yaml: cannot be read"):
        RunDir(tmp_path).settings()
