"""RL from images: whole runs of a tiny Mllama, with parts frozen, adapters, and over ZeRO-3."""

import json
from typing import get_args

import pytest
import torch
import yaml
from safetensors import safe_open

from evaluation.evaluate import CommandConfig
from evaluation.evaluate import main as evaluate
from evaluation.play import EvalConfig
from gym_command.command import parse_config
from gym_dialogue import InputError
from gym_policy import load_model
from gym_policy.models.testing import ARCHITECTURES, save_architecture
from gym_policy.parts import Part, part_of
from rl.bench.command import main as bench
from rl.bench.config import BenchConfig
from rl.config import RLConfig
from rl.testing import SMALL, command, deepspeed
from rl.train import train

TASK = """
task: seen
env_kwargs: {language_only: false, resolution: 84, face_cards_color: black}
suites:
  - {name: id, env: {kwargs: {split: train}}}
  - {name: visual_ood, shift: visual, env: {kwargs: {face_cards_color: red}}}
"""
IMAGES = [
    "--env.kwargs.language_only=false",
    "--env.kwargs.resolution=84",
    "--env.kwargs.face_cards_color=black",
]


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    """Checkpoints of tiny models that see, with random weights, by kind; and a task file."""
    root = tmp_path_factory.mktemp("seeing")
    for kind in ARCHITECTURES:
        save_architecture(kind, root / kind)
    (root / "task.yaml").write_text(TASK)
    return root


def _changed(run):
    before, after = (
        load_model(str(run / "checkpoints" / f"update-{n:06d}")).state_dict() for n in (0, 2)
    )
    return {part_of(name) for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("kind", "flags", "trained"),
    [
        ("mllama", ["--freeze=[vision]"], {"projector", "language"}),
        ("mllama", ["--lora.rank=4", "--algorithm=grpo"], set(get_args(Part))),
        ("llava", ["--part_lr={vision: 1e-2}", "--kl_coef=0.1"], set(get_args(Part))),
        ("llava_onevision", ["--freeze=[language]"], {"vision", "projector"}),
        ("qwen2_5_vl", ["--gradient_checkpointing"], set(get_args(Part))),
        ("qwen3_vl", ["--freeze=[vision,projector]", "--kl_coef=0.1"], {"language"}),
        # Its projector is one matrix, not a layer that adapters go on.
        ("gemma3", ["--lora.rank=4", "--algorithm=grpo"], {"vision", "language"}),
        ("idefics3", ["--freeze=[vision]"], {"projector", "language"}),
        ("internvl", ["--algorithm=grpo"], set(get_args(Part))),
    ],
)
def test_a_run_in_images(kind, flags, trained, seeing, tmp_path):
    run, task = tmp_path / "run", str(seeing / "task.yaml")
    flags = [f"--model={seeing / kind}", f"--run_dir={run}", f"--task={task}", *flags]
    train(parse_config(RLConfig, [*SMALL, *IMAGES, *flags]))
    table = (run / "table.txt").read_text()
    assert "visual_ood" in table
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
    evaluate(CommandConfig([str(run)], task, run_dir=f"{run}/eval", eval=EvalConfig(**settings)))
    assert (run / "eval" / "table.txt").read_text() == table


def test_a_run_in_images_over_zero3(seeing, tmp_path):
    run = tmp_path / "run"
    flags = [f"--model={seeing / 'mllama'}", f"--run_dir={run}", f"--task={seeing / 'task.yaml'}"]
    flags += [*SMALL, *IMAGES, "--turns_per_update=4", "--num_envs=4", "--eval_every=0"]
    flags += ["--gradient_checkpointing", "--eval.decoding=[sampled]"]
    done = command("gym_command.launch", deepspeed(3), "rl.train", *flags)
    assert done.returncode == 0, done.stderr
    for line in (run / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line)["logprob_gap"] < 1e-4
    assert _changed(run) == set(get_args(Part))


def test_an_architecture_with_random_weights_is_measured(seeing, capsys):
    mllama = str(seeing / "mllama")
    bench(
        BenchConfig(
            sections=["vision"],
            architecture=mllama,
            vision_tokenizer=mllama,
            vision_turns=8,
            vision_batch=4,
            vision_new_tokens=4,
        )
    )
    printed = capsys.readouterr().out
    assert "28 pixels x 2 tiles" in printed
    assert float(printed.split("off by ")[1].split()[0]) < 1e-4


def test_a_text_model_given_images_leaves_no_run_behind(start, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(InputError, match=r"shows images, and the model .* reads text only"):
        train(parse_config(RLConfig, [f"--model={start}", f"--run_dir={run}", *SMALL, *IMAGES]))
    assert not run.exists()
    with pytest.raises(InputError, match="suite id shows images, and the model"):
        evaluate(CommandConfig([str(start)], "gp_vl", run_dir=str(run)))
    assert not run.exists()
