"""Checkpoints that are whole or not there, and names that are none."""

import errno
import subprocess
from pathlib import Path

import pytest
import torch

from gym_command.checkpoints import update_of
from gym_command.run_dir import RunDir
from gym_dialogue import InputError
from gym_policy.training.checkpoint import (
    SUMS_FILE,
    begin,
    damage,
    newest_whole,
    publish,
    take_out,
    writing,
)


def _save(run, update, state=True, fails_with=None):
    final = run / "checkpoints" / f"update-{update:06d}"
    with writing(final) as partial:
        begin(partial)
        (partial / "config.json").write_text("{}")
        (partial / "model.safetensors").write_bytes(b"weights")
        if state:
            (partial / "training" / "part").mkdir()
            (partial / "training" / "part" / "optimizer.pt").write_bytes(b"state")
        if fails_with is not None:
            raise fails_with
        publish(partial, final)
    return final


def test_a_checkpoint_lists_every_file_as_sha256sum_does(tmp_path):
    path = _save(tmp_path, 3)
    subprocess.run(["sha256sum", "--check", "--strict", SUMS_FILE], cwd=path, check=True)
    assert damage(path) is None
    take_out(path, {"training/part/optimizer.pt"})
    assert damage(path) is None
    assert _save(tmp_path, 3, state=False) == path  # takes the place of the one before
    assert sorted(file.name for file in path.iterdir()) == [
        SUMS_FILE,
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "training/part/optimizer.pt"])
@pytest.mark.parametrize("how", ["changed", "missing", "a directory"])
def test_any_damage_is_seen_and_the_one_before_is_taken(name, how, tmp_path):
    before, newest = _save(tmp_path, 2), _save(tmp_path, 10)
    file = newest / name
    file.write_bytes(b"other")
    if how != "changed":
        file.unlink()
    if how == "a directory":
        file.mkdir()
    actual, shown = newest_whole(tmp_path, damage)
    if (name, how) == ("config.json", "missing") or (name == "config.json" and file.is_dir()):
        assert (actual, shown) == (before, [])  # it is no checkpoint at all
        return
    assert actual == before
    assert [line.partition(":")[0] for line in shown] == [f"checkpoint {newest}"]
    assert shown[0].endswith("going back to the one before")


@pytest.mark.parametrize("content", [b"", b"\xff", b"\n\n", b"abc", b"0  config.json\n", None])
def test_a_damaged_list_is_damage(content, tmp_path):
    path = _save(tmp_path, 1)
    (path / SUMS_FILE).unlink()
    if content is not None:
        (path / SUMS_FILE).write_bytes(content)
    assert damage(path)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
    ],
)
def test_a_disk_that_does_not_take_a_checkpoint_is_one_line(error, tmp_path):
    before = _save(tmp_path, 1)
    with pytest.raises(InputError, match="update-000002: cannot be written"):
        _save(tmp_path, 2, fails_with=error)
    assert list((tmp_path / "checkpoints").iterdir()) == [before]
    with pytest.raises(RuntimeError, match="a bug"):
        _save(tmp_path, 2, fails_with=RuntimeError("a bug"))


def test_torch_says_that_a_disk_is_full_as_expected():
    with pytest.raises(InputError, match="cannot be written"), writing(Path("x")):
        torch.save(torch.zeros(100_000), "/dev/full")


@pytest.mark.parametrize(
    "name", ["update-²", "update-x", "update-", "update-1.partial", "other", "update-٣"]
)
def test_names_that_are_no_checkpoint_are_passed_over(name, tmp_path):
    path = _save(tmp_path, 1)
    other = path.with_name(name)
    other.mkdir()
    (other / "config.json").write_text("{}")
    assert RunDir(tmp_path).saved_checkpoints() == [path]
    assert update_of(other) is None


def test_checkpoints_are_in_the_order_of_their_updates(tmp_path):
    paths = [_save(tmp_path, update, state=False) for update in (5, 999_999, 1_000_000)]
    assert RunDir(tmp_path).saved_checkpoints() == paths
