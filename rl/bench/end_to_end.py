"""Sampling and learning in batches against one dialogue at a time, as the released code does: one
environment, minibatches of 1, and a step every 128 of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator

from gym_command.run_dir import saved_checkpoints
from gym_dialogue import rollout
from gym_dialogue.make import EnvConfig, make_envs
from gym_policy import ModelPolicy, Renderer, load_renderer
from rl.actor_critic import ActorCritic
from rl.bench.config import BenchConfig
from rl.bench.device import load_on_device
from rl.bench.table import Ratio
from rl.config import RLConfig
from rl.experience import to_experience
from rl.learner import Learner
from rl.tasks import TaskStream

ACCUMULATED = 128


def bench_end_to_end(config: BenchConfig) -> list[Ratio]:
    """Measure one PPO update of a checkpoint."""
    path = saved_checkpoints(config.model)[-1]
    settings = RLConfig(
        turns_per_update=config.turns,
        num_envs=config.turns,
        max_new_tokens=config.max_new_tokens,
        minibatch_size=256,
        microbatch_size=64,
    )
    ratios = against_one_at_a_time(
        settings,
        config.single_turns,
        config.repeats,
        lambda: ActorCritic(load_on_device(path), 1.0),
        load_renderer(path),
    )
    what = ("sampling", "learning", "sampling and learning")
    return [
        Ratio("end_to_end", f"{name}, many against one at a time", ratio, aim)
        for name, ratio, aim in zip(what, ratios, ("", "", "12 x"), strict=True)
    ]


def against_one_at_a_time(
    settings: RLConfig,
    single_turns: int,
    repeats: int,
    make_actor_critic: Callable[[], ActorCritic],
    renderer: Renderer,
) -> tuple[float, float, float]:
    """Return the speedup of a batched update over one dialogue at a time: in sampling, learning and
    both. Speedups are ratios of turns per second, medians of `repeats` alternating measurements. An
    update has one reply per hand and one epoch.
    """
    batched = replace(settings, epochs=1, lr=1e-5, env=EnvConfig(kwargs={"verify_iter": 1}))
    single = replace(
        batched,
        turns_per_update=single_turns,
        num_envs=1,
        minibatch_size=ACCUMULATED,
        microbatch_size=1,
        sampler="generate",
    )
    warm_up = replace(single, turns_per_update=1)
    _update(warm_up, 0, make_actor_critic(), renderer)
    measured: dict[str, list[np.ndarray]] = {"batched": [], "single": []}
    for repeat in range(repeats):
        for name, how in (("batched", batched), ("single", single)):
            measured[name].append(_update(how, repeat + 1, make_actor_critic(), renderer))
    rates = {name: np.median(runs, axis=0) for name, runs in measured.items()}
    for name, (sampled, learned, both) in rates.items():
        print(
            f"update   {name}: {sampled:,.2f} turns/s sampled, {learned:,.2f} turns/s learned, "
            f"{both:,.2f} turns/s end to end"
        )
    sampling, learning, both = (rates["batched"] / rates["single"]).tolist()
    return sampling, learning, both


def _update(
    settings: RLConfig, number: int, actor_critic: ActorCritic, renderer: Renderer
) -> np.ndarray:
    """Return turns per second (3,): sampled, learned, both."""
    policy = ModelPolicy(
        actor_critic.model,
        renderer,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.sampling_batch,
        sampler=settings.sampler,
    )
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    learner = Learner(settings, actor_critic, accelerator, renderer.tokenizer.pad_token_id)
    envs = make_envs(settings.env, settings.num_envs)
    stream = TaskStream(settings, 1, number, 0, 1)
    moments = [time.perf_counter()]
    with learner.sampling():
        episodes = rollout(envs, policy, stream, stream.ended)
    moments.append(time.perf_counter())
    learner.learn(number, episodes, to_experience(episodes, renderer))
    moments.append(time.perf_counter())
    turns = sum(len(episode.turns) for episode in episodes)
    began, sampled, learned = moments
    return turns / np.array([sampled - began, learned - sampled, learned - began])
