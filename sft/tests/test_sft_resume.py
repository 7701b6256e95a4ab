"""Compute that is logged, and fine-tuning that ends the same however often it is interrupted."""

import json
import os
import resource
import shutil
import signal
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml

from gym_command.command import run_command
from gym_command.run_dir import RunDir
from gym_dialogue import InputError, Message
from gym_dialogue.data import read_dialogues
from gym_dialogue.make import EnvConfig
from gym_policy import Renderer, load_model, load_renderer
from gym_policy.compute import num_parameters
from gym_policy.models.load import save_renderer
from gym_policy.testing import tiny_llama, tiny_tokenizer
from gym_policy.training.checkpoint import publish
from sft import fit as sft_fit
from sft.config import SFTConfig
from sft.data import DialogueItems, SourceConfig, TrainingOrder
from sft.resume import Saved, resume_from
from sft.run_files import RunFiles
from sft.train import train


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A tiny Llama with dropout, so that what it becomes depends on the random state."""
    path = tmp_path_factory.mktemp("start")
    tokenizer = tiny_tokenizer()
    model = tiny_llama(tokenizer)
    model.config.attention_dropout = 0.1
    model.save_pretrained(path)
    save_renderer(Renderer(tokenizer), path)
    return str(path)


@pytest.fixture
def config(start, tmp_path):
    return replace(_settings(start), run_dir=str(tmp_path / "run"))


def _settings(start):
    return SFTConfig(
        model=start,
        sources=[SourceConfig(EnvConfig(kwargs={"verify_iter": 2}), 1, 0.5)],
        num_dialogues=40,
        num_steps=8,
        batch_size=4,
        microbatch_size=2,
        lr=1e-2,
        save_every=3,
        validation=0.2,
    )


def _metrics(run):
    """Without times, and without the last record, a mean over what one process trained."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    records = [r for r in map(json.loads, lines) if "train_loss" not in r]
    return [
        {k: v for k, v in r.items() if not k.endswith(("runtime", "_per_second"))} for r in records
    ]


def _weights(run, step):
    return load_model(str(run / "checkpoints" / f"update-{step:06d}")).state_dict()


def _same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def _at_step(monkeypatch, step, act):
    """Have something happen while a step is taken."""
    step_end = RunFiles.on_step_end

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == step:
            act()
        step_end(self, args, state, control, **kwargs)

    monkeypatch.setattr(RunFiles, "on_step_end", on_step_end)


def test_tokens_and_compute_are_those_of_the_dialogues_learned_from(config):
    run = train(replace(config, validation=0.0))
    dialogues = list(read_dialogues(run / "data.jsonl"))
    items = DialogueItems(dialogues, load_renderer(config.model))
    order = TrainingOrder(items, 4, 8, seed=0).order
    # As RL counts them: prompts and replies of each dialogue, no padding.
    lengths = [len(items[index]["rendered"].token_ids) for index in order]
    parameters = num_parameters(load_model(config.model))
    assert parameters == load_model(config.model).num_parameters()
    records = _metrics(run)
    assert {0, 3, 6, 8} <= {record["update"] for record in records}  # every checkpoint
    for record in records:
        tokens = sum(lengths[: 4 * record["update"]])
        assert record["tokens"] == tokens
        assert record["flops"] == 6 * parameters * tokens


def test_killed_run_goes_on_to_the_same_end(config, monkeypatch, tmp_path, capsys):
    whole = train(replace(config, run_dir=str(tmp_path / "whole")))
    run = tmp_path / "run"

    for step in (2, 5, 7):  # before anything to go on from is saved, and after
        with monkeypatch.context() as patch:
            _at_step(patch, step, _kill)
            with pytest.raises(KeyboardInterrupt):
                train(replace(config, resume=True))
    (run / "checkpoints" / "update-000007").mkdir()  # what had been saved later is dropped
    shutil.copy(
        run / "checkpoints" / "update-000006" / "config.json", run / "checkpoints/update-000007"
    )
    # The newest two can be gone on from.
    assert [path.parent.name[-1] for path in _states(run)] == ["3", "6"]
    train(replace(config, resume=True))
    assert "Resuming from" in capsys.readouterr().out
    assert _same(_weights(run, 8), _weights(whole, 8))
    assert not _same(_weights(run, 8), _weights(whole, 6))
    assert _metrics(run) == _metrics(whole)
    assert [p.name[-1] for p in sorted((run / "checkpoints").iterdir())] == ["0", "3", "6", "8"]
    assert not _states(run)
    before = (run / "metrics.jsonl").read_text()
    assert train(replace(config, resume=True)) == run
    assert "is finished" in capsys.readouterr().out
    assert (run / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves(number, config, monkeypatch, tmp_path, capsys):
    config = replace(config, save_every=0)
    whole = train(replace(config, run_dir=str(tmp_path / "whole")))
    with monkeypatch.context() as patch:
        _at_step(patch, 5, lambda: os.kill(os.getpid(), number))
        with pytest.raises(SystemExit) as left:
            train(config)
    assert left.value.code == 128 + number
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert "Interrupted: saved after step 5. Resume with --resume." in capsys.readouterr().out
    run = train(replace(config, resume=True))
    assert _same(_weights(run, 8), _weights(whole, 8))
    assert _metrics(run)[-1] == _metrics(whole)[-1]


def test_a_resume_that_cannot_be_is_one_line(config, monkeypatch):
    with monkeypatch.context() as patch:
        _at_step(patch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit):
            train(config)
    with pytest.raises(InputError, match=r"lr=0\.5, but the run"):
        train(replace(config, resume=True, lr=0.5))
    run = Path(config.run_dir)
    (state,) = (path for path in _states(run) if path.parent.name.endswith("4"))
    file = state / "training_state.json"
    text = file.read_text()
    for damaged, word in (
        (
            text.replace('"processes": 1', '"processes": 2'),
            "was on 2 processes, this is on 1 proc",
        ),
        ("[]", "names no step"),
    ):
        file.write_text(damaged)
        _seal(state.parent)
        with pytest.raises(InputError, match=word):
            train(replace(config, resume=True))
    for path in _states(run):
        shutil.rmtree(path)
    with pytest.raises(InputError, match="no training state to go on from that is whole"):
        train(replace(config, resume=True))
    assert yaml.safe_load((run / "config.yaml").read_text())["lr"] == config.lr


@pytest.fixture(scope="module")
def interrupted(start, tmp_path_factory):
    """(a whole run, the settings of the same that was killed in its seventh step)."""
    directory = tmp_path_factory.mktemp("interrupted")
    config = replace(_settings(start), run_dir=str(directory / "run"))
    whole = train(replace(config, run_dir=str(directory / "whole")))
    with pytest.MonkeyPatch.context() as patch:
        _at_step(patch, 7, _kill)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    return whole, config


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", "flip"),
        ("training/optimizer.pt", "flip"),
        ("training/scheduler.pt", "remove"),
        ("training/trainer_state.json", "cut"),
        ("training/rng_state.pth", "cut"),
        ("SHA256SUMS", "cut"),
        ("SHA256SUMS", "empty"),
        ("config.json", "flip"),
    ],
)
def test_a_damaged_checkpoint_falls_back_and_says_so(name, damage, interrupted, tmp_path, capsys):
    whole, config = interrupted
    run = tmp_path / "run"
    shutil.copytree(config.run_dir, run)
    config = replace(config, run_dir=str(run), resume=True)
    file = run / "checkpoints" / "update-000006" / name
    data = file.read_bytes()
    middle = len(data) // 2
    if damage == "remove":
        file.unlink()
    else:
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        file.write_bytes({"flip": flipped, "cut": data[:middle], "empty": b""}[damage])
    saved = resume_from(config)
    assert saved == Saved(
        3, run / "checkpoints/update-000003", run / "checkpoints/update-000003/training"
    )
    (shown,) = capsys.readouterr().err.splitlines()
    assert shown.startswith(f"warning: checkpoint {file.parents[name.count('/')]}: ")
    assert shown.endswith("; going back to the one before")
    if name == "training/scheduler.pt":
        train(config)
        assert _same(_weights(run, 8), _weights(whole, 8))
        assert _metrics(run) == _metrics(whole)


def test_a_disk_that_does_not_take_the_optimizers_state(interrupted, tmp_path):
    whole, config = interrupted
    config = replace(config, run_dir=str(tmp_path / "run"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    model = whole / "checkpoints" / "update-000000" / "model.safetensors"
    resource.setrlimit(resource.RLIMIT_FSIZE, (model.stat().st_size + 4096, before[1]))
    try:
        with pytest.raises(InputError, match="update-000003: cannot be written: the disk does not"):
            train(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    run = tmp_path / "run"
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["update-000000"]
    train(replace(config, resume=True))
    assert _same(_weights(run, 8), _weights(whole, 8))


def test_a_damaged_end_is_not_a_finished_run(interrupted, tmp_path):
    whole, config = interrupted
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    file = run / "checkpoints" / "update-000008" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="no training state to go on from that is whole"):
        train(replace(config, run_dir=str(run), resume=True))


def test_runs_of_the_version_before_go_on(interrupted, tmp_path):
    whole, config = interrupted
    run = tmp_path / "run"
    shutil.copytree(config.run_dir, run)
    for path in run.glob("checkpoints/*/SHA256SUMS"):
        path.unlink()
    (run / "trainer").mkdir()
    before, newest = _states(run)
    shutil.rmtree(before)
    newest.rename(run / "trainer" / "checkpoint-6")
    state = {"step": 6, "processes": 1, "zero_stage": None}
    (run / "trainer" / "newest.json").write_text(json.dumps(state))
    train(replace(config, run_dir=str(run), resume=True))
    assert _same(_weights(run, 8), _weights(whole, 8))
    assert _metrics(run) == _metrics(whole)
    assert not (run / "trainer").exists()
    (run / "checkpoints" / "update-000008" / "SHA256SUMS").unlink()
    assert train(replace(config, run_dir=str(run), resume=True)) == run  # finished


def _kill():
    raise KeyboardInterrupt


def _states(run):
    return sorted((run / "checkpoints").glob("*/training"))


def _seal(checkpoint):
    """Take what a checkpoint holds now for what was written."""
    (checkpoint / "SHA256SUMS").unlink()
    publish(checkpoint.rename(checkpoint.with_name("changed")), checkpoint)


@pytest.mark.parametrize("saves", [0, 1])
def test_training_that_diverges_is_one_line_and_leaves_no_such_weights(config, saves, monkeypatch):
    """It once ended with code 0, a loss of 0 and NaN in every weight, and was "finished"."""
    diverges = replace(config, lr=1e30, save_every=saves, max_grad_norm=1e30, validation=0.0)
    diverges.num_dialogues = 8
    for again in ([], ["--resume"]):
        monkeypatch.setattr("sys.argv", ["sft", *_flags(diverges), *again])
        with pytest.raises(SystemExit) as stop:
            run_command(train, SFTConfig)
        assert stop.value.code == 2
    run = Path(config.run_dir)
    for checkpoint in RunDir(run).saved_checkpoints():
        load_model(str(checkpoint))  # refuses what are no numbers
    assert int(RunDir(run).saved_checkpoints()[-1].name[-6:]) < config.num_steps
    assert all(record.get("loss") != 0 for record in _metrics(run))


def _flags(config):
    file = Path(config.run_dir).with_suffix(".yaml")
    file.write_text(yaml.safe_dump(asdict(config)))
    return [f"--config={file}"]


def test_dialogues_that_the_model_cannot_take_are_one_line(config, start):
    """Tokens beyond the embedding, and more of them than there are positions."""
    model, renderer = load_model(start), load_renderer(start)
    config = replace(config, validation=0.0)
    dialogues = [[Message("user", "?"), Message("assistant", "a" * 3000)]]
    with pytest.raises(InputError, match=r"dialogue 1 to learn from has 30\d\d tokens, and .*2048"):
        sft_fit.fit(model, renderer, dialogues, config, Path(config.run_dir))
    model.resize_token_embeddings(200)
    with pytest.raises(InputError, match="dialogue 1 to learn from has the token"):
        sft_fit.fit(model, renderer, dialogues, config, Path(config.run_dir))
