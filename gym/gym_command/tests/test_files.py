"""Files that are written whole or not at all, and directories whose config.yaml is damaged."""

import errno
import json
import resource
from dataclasses import dataclass

import pytest

from gym_command import files as files_module
from gym_command.command import run_command
from gym_command.files import append_json, atomic_file, write_atomically
from gym_command.run_dir import RunDir
from gym_dialogue import InputError


@dataclass
class Settings:
    """Settings of a test."""

    run_dir: str = "x"
    """Where."""
    lr: float = 0.1
    """More."""


@pytest.fixture
def limited():
    """Sets the size, in bytes, that no file may exceed."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 1, 100, 4096, 9000])
def test_a_file_is_there_whole_or_as_it_was_before(room, limited, tmp_path):
    file = tmp_path / "a.json"
    write_atomically(file, "before")
    limited(room)
    with pytest.raises(InputError, match=r"a\.json: cannot be written: File too large"):
        write_atomically(file, "x" * 10_000)
    limited(10_000)
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    write_atomically(file, "after")
    assert file.read_text() == "after"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_is_full_when_all_is_written(call, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files_module.os, call, full)
    with pytest.raises(InputError, match="No space left"):
        write_atomically(tmp_path / "a.json", "x")
    assert not list(tmp_path.iterdir())


def test_what_fails_otherwise_leaves_nothing_and_keeps_its_kind(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "a", "wb") as file:
        file.write(bytes([1 // 0]))
    assert not list(tmp_path.iterdir())


def test_a_record_is_appended_whole_or_not_at_all(limited, tmp_path):
    file = tmp_path / "metrics.jsonl"
    append_json(file, {"update": 1})
    limited(30)
    with pytest.raises(InputError, match=r"metrics\.jsonl: cannot be written"):
        append_json(file, {"update": 2}, {"update": 3, "reward": 0.5})
    assert file.read_text() == '{"update": 1}\n'
    append_json(file, {"update": 2})
    assert [json.loads(line)["update"] for line in file.read_text().splitlines()] == [1, 2]


@pytest.mark.parametrize("content", [b"", b"lr: [", b"- 1", b"\xff\xfe", b"lr", None])
def test_a_directory_without_a_usable_configuration(content, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    if content is not None:
        (run / "config.yaml").write_bytes(content)
    config = Settings(run_dir=str(run))
    assert not RunDir(config.run_dir).holds_run_of(
        config, ()
    )  # a resumed run starts afresh, where there is nothing
    (run / "checkpoints" / "update-000000").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no config\.yaml that can be read: put the run's"):
        RunDir(config.run_dir).holds_run_of(config, ())
    with pytest.raises(InputError, match="already holds a run"):
        RunDir(run).start(config)
    (run / "checkpoints" / "update-000000").rmdir()
    RunDir(run).start(config)
    assert RunDir(config.run_dir).holds_run_of(config, ())


def test_a_configuration_that_the_disk_does_not_take_blocks_nothing(limited, tmp_path):
    config = Settings(run_dir=str(tmp_path / "run"))
    limited(5)
    with pytest.raises(InputError, match="cannot be written"):
        RunDir(config.run_dir).start(config)
    limited(1000)
    assert not RunDir(config.run_dir).holds_run_of(config, ())
    RunDir(config.run_dir).start(config)
    assert RunDir(config.run_dir).holds_run_of(config, ())


def test_damaged_lines_of_a_log_are_dropped_and_counted(tmp_path, capsys):
    good = [json.dumps({"update": update}) for update in (1, 2, 3)]
    lines = [
        good[0],
        "[]",
        "3",
        "{}",
        '{"update": "x"}',
        "\0\0",
        "[" * 10**5,
        "",
        good[1],
        good[2],
        '{"upd',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    RunDir(tmp_path).cut_after(2)
    assert (tmp_path / "metrics.jsonl").read_text() == f"{good[0]}\n{good[1]}\n"
    assert "6 damaged lines are dropped" in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    RunDir(tmp_path).cut_after(2)


def test_a_directory_in_the_place_of_a_file_is_one_line(tmp_path, monkeypatch, capsys):
    with pytest.raises(InputError, match="Is a directory"):
        append_json(tmp_path, {})
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(InputError, match="Is a directory"):
        RunDir(tmp_path).start(Settings())
    monkeypatch.setattr("sys.argv", ["command"])
    with pytest.raises(SystemExit) as stop:
        run_command(lambda config: tmp_path.read_text(), Settings)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: cannot be used: Is a directory\n"
