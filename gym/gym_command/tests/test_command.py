"""Configuration from files and flags, and how bad input is answered."""

import os
import sys
import time
from dataclasses import dataclass, field

import pytest
from tqdm import tqdm

from gym_command.command import parse_config, run_command
from gym_command.launch import launch
from gym_command.run_dir import RunDir
from gym_dialogue import InputError
from gym_dialogue.make import EnvConfig, make_envs, with_prompt_file


@dataclass
class Inner:
    """Inner settings."""

    lr: float = 1e-3
    """Learning rate."""
    quiet: bool = False
    """A switch."""
    whole: bool = True
    """A switch that is on."""


@dataclass
class Settings:
    """Settings of a test."""

    seed: int = 0
    """The seed."""
    inner: Inner = field(default_factory=Inner)
    """More."""
    env: EnvConfig = field(default_factory=EnvConfig)
    """Where."""


def test_later_values_win(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("seed: 1\ninner: {lr: 1e-4}\nenv: {kwargs: {verify_iter: 2}}\n")
    actual = parse_config(Settings, [f"--config={file}", "--seed=3", "--env.kwargs.split=train"])
    assert (actual.seed, actual.inner.lr) == (3, 1e-4)
    assert actual.env.kwargs == {"verify_iter": 2, "split": "train"}
    assert isinstance(actual.inner, Inner)


@pytest.mark.parametrize(
    ("argv", "quiet", "whole"),
    [
        ([], False, True),
        (["--inner.quiet"], True, True),
        (["--inner.quiet", "--seed=3"], True, True),
        (["--inner.quiet", "true", "--inner.whole", "false"], True, False),
        (["--inner.whole=false", "--inner.whole"], False, True),
        (["--inner.quiet", "--inner.quiet=false"], False, True),
        (["--inner={quiet: true}"], True, True),
    ],
)
def test_a_switch_may_stand_alone_wherever_it_is(argv, quiet, whole):
    inner = parse_config(Settings, argv).inner
    assert (inner.quiet, inner.whole) == (quiet, whole)


@pytest.mark.parametrize(
    "argv",
    [["--sed=1"], ["--seed=x"], ["--inner.rl=1"], ["seed"], ["--config=missing.yaml"]],
)
def test_bad_configurations_end_in_one_line_and_code_2(argv, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["prog", *argv])
    with pytest.raises(SystemExit) as stop:
        run_command(lambda config: None, Settings)
    assert stop.value.code == 2
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("error: configuration: ")
    assert "\n" not in printed


def test_bugs_keep_their_traceback(monkeypatch):
    monkeypatch.setattr("sys.argv", ["prog"])
    with pytest.raises(ZeroDivisionError):
        run_command(lambda config: 1 / 0, Settings)


def test_nothing_is_imported_by_a_value():
    spec = '--env.kwargs={"a": {"class_path": "subprocess.Popen", "init_args": {"args": "true"}}}'
    value = parse_config(Settings, [spec]).env.kwargs["a"]
    assert isinstance(value, dict)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (EnvConfig("nowhere/Env-v0"), "nowhere"),
        (EnvConfig("gym_cards/Missing-v0"), "Missing"),
        (EnvConfig(kwargs={"colour": "red"}), "colour"),
        (EnvConfig(kwargs={"verify_iter": 0}), "verify_iter"),
    ],
)
def test_environments_that_cannot_be_made(config, word):
    with pytest.raises(InputError, match=word):
        make_envs(config, 1)


def test_a_run_is_not_overwritten(tmp_path):
    RunDir(tmp_path / "run").start(Settings())
    assert "seed: 0" in (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(InputError, match="already holds a run"):
        RunDir(tmp_path / "run").start(Settings())


def test_an_unwritable_run_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        RunDir(tmp_path / "file" / "run").start(Settings())


def test_a_prompt_file_is_given_unless_the_environment_says_otherwise():
    config = EnvConfig(kwargs={"verify_iter": 2})
    assert with_prompt_file(config, None) == config
    assert with_prompt_file(config, "a").kwargs == {"verify_iter": 2, "prompt_file": "a"}
    for own in ("b", None):
        assert with_prompt_file(EnvConfig(kwargs={"prompt_file": own}), "a").kwargs == {
            "prompt_file": own
        }
    assert config.kwargs == {"verify_iter": 2}
    with pytest.raises(InputError, match="prompt_file"):
        make_envs(with_prompt_file(EnvConfig("CartPole-v1"), "a"), 1)


def test_a_full_disk_is_one_line_wherever_it_shows(monkeypatch, capsys):
    def main(config):
        with open("/dev/full", "w") as file:
            file.write("x" * 100_000)

    monkeypatch.setattr("sys.argv", ["command"])
    with pytest.raises(SystemExit) as stop:
        run_command(main, EnvConfig)
    assert stop.value.code == 2
    assert "No space left" in capsys.readouterr().err


def test_an_error_does_not_stand_behind_a_progress_bar(monkeypatch, capsys):
    def main(config):
        bar = tqdm(total=3)
        bar.update()
        raise InputError(f"no such thing as {bar.n}")

    monkeypatch.setattr("sys.argv", ["command"])
    with pytest.raises(SystemExit):
        run_command(main, EnvConfig)
    lines = capsys.readouterr().err.replace("\r", "\n").split("\n")
    assert "error: no such thing as 1" in lines


@pytest.mark.parametrize(
    ("source", "code", "shown"),
    [
        ("import sys, os; sys.exit(3 * int(os.environ['RANK']))", 3, ""),
        # The one that alone met bad input has the time to say so; the others are then ended.
        (
            "import sys, os, time; late = os.environ['RANK'] == '0'; time.sleep(late * 60);"
            "print('said', file=sys.stderr); sys.exit(2)",
            2,
            "said",
        ),
        # All are waited for that were asked to leave.
        (
            "import sys, os, time; time.sleep(3 * int(os.environ['RANK']));"
            "print('rank', os.environ['RANK'], os.environ['WORLD_SIZE'], file=sys.stderr);"
            "sys.exit(143)",
            143,
            "rank 1 2",
        ),
    ],
)
def test_the_launcher_ends_processes_as_their_code_asks(source, code, shown, capfd):
    began = time.monotonic()
    actual = launch(2, [sys.executable, "-c", source], dict(os.environ))
    assert actual == code
    assert shown in capfd.readouterr().err
    assert time.monotonic() - began < 30


def test_bad_input_is_said_once_however_late_a_process_is(capfd):
    source = (
        "import os, time; from gym_dialogue import InputError; from gym_command.command import *;"
        "from gym_dialogue.make import *;"
        "time.sleep(5 * (os.environ['RANK'] == '0'))\n"
        "def main(config): raise InputError('no such thing')\n"
        "run_command(main, EnvConfig)"
    )
    assert launch(2, [sys.executable, "-c", source], dict(os.environ)) == 2
    assert capfd.readouterr().err.count("no such thing") == 1
