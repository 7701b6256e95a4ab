"""Runs that are killed, stopped, damaged or short of disk go on as if nothing had been."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

from gym_command.command import parse_config
from gym_command.lock import sole_writer
from gym_command.run_dir import RunDir
from gym_dialogue import InputError
from gym_policy import load_model
from gym_policy.training.checkpoint import SUMS_FILE
from rl.checkpoint import newest_whole, prune
from rl.config import RLConfig
from rl.resume import resume_from
from rl.train import train

ROOT = Path(__file__).parents[2]
PATH = f"{ROOT}:{ROOT / 'gym'}"
KILLS = int(os.environ.get("KILLS", 2))  # moments at which a run is killed
SETTINGS = {
    "num_updates": 4 + 2 * KILLS,
    "turns_per_update": 8,
    "num_envs": 8,
    "max_new_tokens": 8,
    "epochs": 2,
    "minibatch_size": 8,
    "microbatch_size": 4,
    "lr": 1e-3,
    "lr_schedule": "cosine",
    "save_every": 1,
    "keep_last": 2,
    "eval_every": 2,
    "trackers": [],
    "env": {"kwargs": {"verify_iter": 2}},
    "ppo": {"value_hidden": [8]},
    "eval": {"episodes": 4, "verify_iter": 2, "max_new_tokens": 8},
    "monitor": {"episodes": 2, "max_new_tokens": 8},
}


def _config(start, run, **changes):
    file = run.parent / f"{run.name}.yaml"
    settings = SETTINGS | {"model": str(start), "run_dir": str(run)} | changes
    file.write_text(yaml.safe_dump(settings))
    return file


def _start(file, *flags, limit=None, launcher=("-m",)):
    """The command in a process of its own; `limit` (bytes) is the size that no file may exceed."""
    shell = f"ulimit -f {limit // 1024}; trap '' XFSZ; " if limit else ""
    command = [sys.executable, *launcher, "rl.train", f"--config={file}", *flags]
    return subprocess.Popen(
        ["bash", "-c", f'{shell}exec "$@"', "-", *command],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": PATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _metrics(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [{k: v for k, v in r.items() if not k.startswith("seconds")} for r in records]


@pytest.fixture(scope="module")
def uninterrupted(start, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    process = _start(_config(start, run))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return run


def test_killed_run_ends_with_the_same_numbers(start, uninterrupted, tmp_path):
    whole = uninterrupted
    run = tmp_path / "run"
    file = _config(start, run, keep_states=1)
    draw = random.Random(0)
    for number in range(KILLS):
        process = _start(file, "--resume")
        # Within the first evaluation, then at any moment of an update: the next line of the metrics
        # is written before the checkpoint of its update.
        if number == 0:
            _wait_until(process, (run / "checkpoints" / "update-000000").exists)
        else:
            lines = _lines(run)
            _wait_until(process, lambda lines=lines: _lines(run) > lines)
        time.sleep(draw.uniform(0.0, 0.5))
        assert process.poll() is None
        assert not (run / "summary.json").exists()
        process.kill()
        process.communicate()
    process = _start(file, "--resume")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert _metrics(run) == _metrics(whole)
    assert (run / "summary.json").read_text() == (whole / "summary.json").read_text()
    dialogues = [(path / "dialogues.jsonl").read_text() for path in (run, whole)]
    assert dialogues[0] == dialogues[1]


def _lines(run):
    file = run / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def _wait_until(process, condition):
    for _ in range(6000):
        if condition():
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    raise AssertionError("waited in vain")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves(number, start, uninterrupted, tmp_path):
    run = tmp_path / "run"
    file = _config(start, run, save_every=0)
    process = _start(file, launcher=("-m", "gym_command.launch", "1"))
    _wait_until(process, (run / "metrics.jsonl").exists)
    process.send_signal(number)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + number, errors
    assert output.count("--resume") == 1
    assert "Traceback" not in errors
    update = int(RunDir(run).saved_checkpoints()[-1].name[-6:])
    assert 1 <= update < SETTINGS["num_updates"]
    assert len(_metrics(run)) == update
    process = _start(file, "--resume")
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert f"Resuming from {run}/checkpoints/update-{update:06d}" in output
    assert _metrics(run) == _metrics(uninterrupted)


def test_a_run_has_one_writer(start, tmp_path):
    run = tmp_path / "run"
    file = _config(start, run)
    with sole_writer(run):
        process = _start(file, "--resume", launcher=("-m", "gym_command.launch", "2"))
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    message = "another process is writing to it; wait for it, or stop it"
    assert errors.strip() == f"error: run directory {run}: {message}"


def test_a_full_disk_is_one_line_and_loses_nothing(start, tmp_path):
    run = tmp_path / "run"
    largest = max(p.stat().st_size for p in start.iterdir())
    process = _start(_config(start, run, keep_last=0), limit=largest + 50_000)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2, errors
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "cannot be written" in lines[0]
    # The optimizer's state, twice the model, did not fit: the start is whole.
    assert newest_whole(run) == (run / "checkpoints" / "update-000000", [])
    assert not list((run / "checkpoints").glob("*.partial"))


def test_a_damaged_newest_checkpoint_falls_back_and_says_so(uninterrupted, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    *others, before, newest = RunDir(run).saved_checkpoints()
    (newest / "model.safetensors").write_bytes(b"0" * 100)
    checkpoint, warnings = newest_whole(run)
    assert checkpoint == before
    assert len(warnings) == 1
    assert "model.safetensors is damaged" in warnings[0]
    (before / SUMS_FILE).unlink()
    checkpoint, warnings = newest_whole(run)
    assert checkpoint == others[-1]
    assert len(warnings) == 2
    for path in others:
        (path / "training" / "training_state.json").unlink()
    with pytest.raises(InputError, match="none of its checkpoints is whole"):
        resume_from(_parsed(run))


def _parsed(run, *flags):
    return parse_config(RLConfig, [f"--config={run}/config.yaml", f"--run_dir={run}", *flags])


def test_a_run_keeps_the_start_the_last_and_the_best(uninterrupted, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    checkpoints = run / "checkpoints"
    for path in RunDir(run).saved_checkpoints()[1:]:
        shutil.rmtree(path)
    for update in range(1, 8):
        directory = checkpoints / f"update-{update:06d}"
        shutil.copytree(checkpoints / "update-000000", directory)
        state = {"update": update, "score": 1.0 if update in (3, 4) else 0.5}
        (directory / "training" / "training_state.json").write_text(json.dumps(state))
    prune(run, 0)
    assert len(RunDir(run).saved_checkpoints()) == 8
    (
        checkpoints / "update-000005" / "training" / "training_state.json"
    ).unlink()  # has no score then
    prune(run, 2)
    assert [int(path.name[-6:]) for path in RunDir(run).saved_checkpoints()] == [0, 3, 6, 7]
    RunDir(run).cut_after(3)
    assert [int(path.name[-6:]) for path in RunDir(run).saved_checkpoints()] == [0, 3]
    assert [file.name for file in (run / "evaluations").iterdir()] == ["update-000000.json"]


def test_older_checkpoints_may_do_without_the_state(uninterrupted, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    *_, before, newest = RunDir(run).saved_checkpoints()
    prune(run, 0, 1)
    assert list(newest.glob("training/optimizer-*"))
    assert not list(before.glob("training/optimizer-*"))
    load_model(str(before))
    assert newest_whole(run) == (newest, [])
    shutil.rmtree(newest)
    checkpoint, warnings = newest_whole(run)
    assert checkpoint == RunDir(run).checkpoint(0)  # a run can resume from the initial one
    assert all("keep_states" in line for line in warnings)
    (before / SUMS_FILE).unlink()
    prune(run, 0, 1)  # what is damaged is left as it is


def _in_the_earlier_layout(run):
    """Training state beside the model, as it was written once."""
    for checkpoint in RunDir(run).saved_checkpoints():
        for file in (checkpoint / "training").iterdir():
            file.rename(checkpoint / file.name)
        (checkpoint / "training").rmdir()
        sums = checkpoint / SUMS_FILE
        sums.write_text(sums.read_text().replace("  training/", "  "))


def test_a_checkpoints_folder_holds_the_weights_of_the_model_alone(uninterrupted):
    """An inference server takes every *.safetensors in the folder for weights."""
    newest = RunDir(uninterrupted).saved_checkpoints()[-1]
    assert [file.name for file in newest.glob("*.safetensors")] == ["model.safetensors"]
    with safe_open(newest / "model.safetensors", "pt") as file:
        assert set(file.keys()) <= set(load_model(str(newest)).state_dict())
    assert {file.name for file in (newest / "training").iterdir()} == {
        "optimizer-00000.safetensors",
        "training_state.json",
        "value_head.safetensors",
    }
    subprocess.run(["sha256sum", "-c", "--quiet", SUMS_FILE], cwd=newest, check=True)


def test_checkpoints_of_the_earlier_layout_are_resumed_checked_and_pruned(
    start, uninterrupted, tmp_path
):
    """The training state may lie beside the model."""
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    shutil.rmtree(RunDir(run).saved_checkpoints()[-1])
    _in_the_earlier_layout(run)
    for name in ("summary.json", f"evaluations/update-{SETTINGS['num_updates']:06d}.json"):
        (run / name).unlink()
    last = RunDir(run).saved_checkpoints()[-1]
    assert newest_whole(run) == (last, [])
    copy = tmp_path / "pruned"
    shutil.copytree(run, copy)
    prune(copy, 0, 1)
    assert [
        len(list(path.glob("optimizer-*"))) for path in RunDir(copy).saved_checkpoints()[-2:]
    ] == [0, 1]
    checkpoint, warnings = newest_whole(copy)
    assert (checkpoint.name, warnings) == (last.name, [])
    (copy / "checkpoints" / last.name / "value_head.safetensors").write_bytes(b"0")
    assert "value_head.safetensors is damaged" in newest_whole(copy)[1][0]
    train(_parsed(run, "--resume"))
    assert _metrics(run) == _metrics(uninterrupted)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--model=other/model"], "model=other/model, but the run"),
        (["--lr=0.5"], "lr=0.5"),
        (["--lora.rank=4"], "lora.rank=4"),
        (["--env.kwargs.verify_iter=9"], "env.kwargs.verify_iter=9"),
    ],
)
def test_a_resume_with_other_settings_is_refused(flags, word, uninterrupted):
    run = uninterrupted
    with pytest.raises(InputError, match=word):
        resume_from(_parsed(run, *flags))
    assert resume_from(_parsed(run, "--save_every=3", "--microbatch_size=2"))


def test_run_directories_that_cannot_be_read_are_named(tmp_path):
    run = tmp_path / "run"
    assert resume_from(RLConfig(model="x", run_dir=str(run))) is None  # it starts
    run.mkdir()
    for content in ("", "a: [", "- 1"):
        (run / "config.yaml").write_text(content)
        assert resume_from(RLConfig(model="x", run_dir=str(run))) is None
    (run / "checkpoints" / "update-000000").mkdir(parents=True)
    with pytest.raises(InputError, match=r"has checkpoints, but no config\.yaml that can be read"):
        resume_from(RLConfig(model="x", run_dir=str(run)))
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="cannot be read"):
        resume_from(RLConfig(model="x", run_dir=str(file)))


def test_a_finished_run_prints_its_table_again(uninterrupted, capsys):
    train(_parsed(uninterrupted, "--resume"))
    assert (uninterrupted / "table.txt").read_text().strip() in capsys.readouterr().out


def test_the_initial_checkpoint_of_a_resumed_run_stays_as_it_was(uninterrupted, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    shutil.rmtree(RunDir(run).saved_checkpoints()[-1])
    initial = RunDir(run).checkpoint(0) / SUMS_FILE
    before = initial.read_text()
    train(_parsed(run, "--resume"))
    assert initial.read_text() == before


def test_a_lost_evaluation_of_the_initial_checkpoint_is_played_by_that_checkpoint(
    uninterrupted, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    for file in (RunDir(run).evaluation(0), RunDir(run).summary_file):
        file.unlink()
    train(_parsed(run, "--resume"))
    expected = RunDir(uninterrupted).evaluation(0).read_text()
    assert RunDir(run).evaluation(0).read_text() == expected
    assert RunDir(uninterrupted).evaluation(SETTINGS["num_updates"]).read_text() != expected
    summary = RunDir(run).summary_file.read_text()
    assert summary == RunDir(uninterrupted).summary_file.read_text()
