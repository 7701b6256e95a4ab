"""Evaluate checkpoints of one arm, and their KL divergence from the initial checkpoint: the part of
a study that is spread over processes.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from evaluation.divergence import divergence, play
from evaluation.play import EvalConfig, evaluation_tasks, model_policies, play_suites
from evaluation.study.layout import Measured, write_measured
from evaluation.suites import load_task
from gym_command.command import run_command
from gym_dialogue import InputError
from gym_dialogue.make import make_envs, with_prompt_file
from gym_policy import load_model, load_renderer
from gym_policy.distributed import join_processes

_DIVERGENCE_STREAM = 0xD1  # beside the suites' numbers: its episodes are none of theirs


@dataclass
class MeasureConfig:
    """Measure what checkpoints do; those that have been measured are left as they are."""

    start: str = ""
    """The initial checkpoint, which divergence is measured from."""
    checkpoints: list[str] = field(default_factory=list)
    """Directories or hub names."""
    files: list[str] = field(default_factory=list)
    """Where the result of each goes."""
    verify_iters: list[int] = field(default_factory=list)
    """Replies that an episode allows, for each."""
    episodes: list[int] = field(default_factory=list)
    """Episodes a suite, for each."""
    task: str = "gp_l"
    """Which suites."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """How each is evaluated, but for verify_iter and episodes."""
    divergence_episodes: int = 0
    """Episodes of the first suite for the KL divergence; 0: it is not measured."""
    prompt_file: str | None = None
    """Wording of prompts and feedback."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights."""


def main(config: MeasureConfig) -> None:
    """Write a file for each checkpoint. Raises InputError."""
    lists = config.checkpoints, config.files, config.verify_iters, config.episodes
    if len({len(values) for values in lists}) > 1:
        raise InputError("checkpoints, files, verify_iters, episodes: must be of the same number")
    task = load_task(config.task)
    state = join_processes()
    wanted = list(zip(*lists, strict=True))
    waiting = [job for job in wanted if not Path(job[1]).is_file()]
    first_policy, from_start = None, None
    for path, file, verify_iter, episodes in waiting:
        settings = replace(config.eval, verify_iter=verify_iter, episodes=episodes)
        model = load_model(path, config.dtype).to(state.device)
        policies = model_policies(model, load_renderer(path), settings)
        records = play_suites(
            policies, task.suites, settings, Path(path).name, prompt_file=config.prompt_file
        )
        measured = Measured(records, verify_iter)
        policy = next(iter(policies.values()))
        if config.divergence_episodes and path != config.start:
            env = with_prompt_file(task.suites[0].env, config.prompt_file)
            env = replace(env, kwargs={"verify_iter": 1} | env.kwargs)
            count = config.divergence_episodes
            envs = make_envs(env, min(count, settings.batch_size))
            tasks = evaluation_tasks(settings.seed, _DIVERGENCE_STREAM, count)
            if first_policy is None:
                start = load_model(config.start, config.dtype).to(state.device)
                start_policies = model_policies(start, load_renderer(config.start), settings)
                first_policy = next(iter(start_policies.values()))
                from_start = play(first_policy, envs, tasks)
            moved = divergence(first_policy, policy, envs, tasks, from_start)
            measured.divergence = {k: v for k, v in moved.items() if k != "episodes"}
        if state.is_main_process:
            write_measured(Path(file), measured)
        state.wait_for_everyone()
        del model, policies, policy
        gc.collect()
    state.destroy_process_group()


if __name__ == "__main__":
    run_command(main, MeasureConfig)
