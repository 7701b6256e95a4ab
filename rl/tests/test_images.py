"""RL from images: whole runs of a tiny Mllama, with parts frozen, adapters, and over ZeRO-3."""

import json
import shutil

import pytest
import torch
import yaml
from rl_parts import tiny_mllama, tiny_mllama_processor, tiny_tokenizer
from safetensors import safe_open
from test_train import SMALL, _command, _deepspeed, _without_times

from evaluation.evaluate import CommandConfig
from evaluation.evaluate import main as evaluate
from evaluation.play import EvalConfig
from gym_dialogue import InputError
from gym_dialogue.command import parse_config
from gym_policy import Renderer, load_model
from gym_policy.load import save_renderer
from gym_policy.parts import part_of
from rl.config import Config
from rl.train import train

IMAGES = [
    "--task=gp_vl",
    "--env.kwargs.language_only=false",
    "--env.kwargs.resolution=84",
    "--env.kwargs.face_cards_color=black",
]


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    """A checkpoint of a tiny Mllama with random weights."""
    directory = tmp_path_factory.mktemp("seeing")
    tokenizer = tiny_tokenizer()
    tiny_mllama(tokenizer).save_pretrained(directory)
    save_renderer(Renderer(tokenizer, tiny_mllama_processor(tokenizer)), directory)
    return directory


def _changed(run):
    before, after = (
        load_model(str(run / "checkpoints" / f"update-{n:06d}")).state_dict() for n in (0, 2)
    )
    return {part_of(name) for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("flags", "trained"),
    [
        (["--freeze=[vision]"], {"projector", "language"}),
        (["--part_lr={vision: 1e-2}", "--kl_coef=0.1"], {"vision", "projector", "language"}),
        (["--lora.rank=4", "--algorithm=grpo"], {"vision", "projector", "language"}),
        (["--lora.rank=4", "--freeze=[vision, projector]"], {"language"}),
    ],
    ids=["frozen tower", "whole", "adapter", "adapter on language"],
)
def test_a_run_in_images(flags, trained, seeing, tmp_path, capsys):
    run = tmp_path / "run"
    flags = [f"--model={seeing}", f"--run_dir={run}", *SMALL, *IMAGES, *flags]
    train(parse_config(Config, flags))
    table = (run / "table.txt").read_text()
    assert "visual OOD (red)" in table
    assert "recognition in the first reply, sampled" in table
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(m["logprob_gap"] < 1e-4 for m in metrics)
    dialogue = json.loads((run / "dialogues.jsonl").read_text().splitlines()[0])["dialogues"][0]
    assert (run / dialogue[0]["image"]).is_file()
    is_adapter = "--lora.rank=4" in flags
    saved = run / "checkpoints" / "update-000002"
    if is_adapter:
        with safe_open(saved / "adapter_model.safetensors", "pt") as file:
            assert {part_of(name) for name in file.keys()} == trained  # noqa: SIM118
    else:
        assert _changed(run) == trained
    settings = yaml.safe_load((run / "config.yaml").read_text())["eval"]
    evaluate(CommandConfig([str(run)], "gp_vl", f"{run}/eval", eval=EvalConfig(**settings)))
    assert (run / "eval" / "table.txt").read_text() == table


def test_a_run_in_images_over_zero3_goes_on(seeing, tmp_path):
    run = tmp_path / "run"
    flags = [f"--model={seeing}", f"--run_dir={run}", *SMALL, *IMAGES, "--save_every=1"]
    flags += ["--num_steps=4", "--num_envs=4", "--eval_every=0", "--gradient_checkpointing"]

    def play(*more):
        done = _command("gym_dialogue.launch", _deepspeed(3), "rl.train", *flags, *more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    play()
    metrics = (run / "metrics.jsonl").read_text()
    assert all(json.loads(line)["logprob_gap"] < 1e-4 for line in metrics.splitlines())
    assert _changed(run) == {"vision", "projector", "language"}
    shutil.rmtree(run / "checkpoints" / "update-000002")
    (run / "evaluations" / "update-000002.json").unlink()
    assert "Going on from" in play("--resume")
    assert _without_times(run / "metrics.jsonl") == _without_times(metrics)


def test_a_text_model_given_images_leaves_no_run_behind(start, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(InputError, match=r"shows images, and the model .* reads text only"):
        train(parse_config(Config, [f"--model={start}", f"--run_dir={run}", *SMALL, *IMAGES]))
    assert not run.exists()
    with pytest.raises(InputError, match="suite id shows images, and the model"):
        evaluate(CommandConfig([str(start)], "gp_vl", str(run)))
    assert not run.exists()
