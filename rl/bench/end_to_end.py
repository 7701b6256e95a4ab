"""Sampling and learning in batches against one dialogue at a time, as the released code does."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from accelerate import Accelerator

from gym_dialogue import rollout
from gym_dialogue.command import EnvConfig, make_envs
from gym_policy import ModelPolicy, Renderer, load_model, load_tokenizer
from gym_policy.load import saved_checkpoints
from rl.actor_critic import ActorCritic
from rl.bench.config import Config
from rl.config import Config as TrainConfig
from rl.experience import to_experience
from rl.learner import Learner
from rl.train import TaskStream


def bench_end_to_end(config: Config) -> None:
    """Turns per second of sampling and learning: many at once, and one at a time."""
    path = saved_checkpoints(config.model)[-1]
    tokenizer = load_tokenizer(path)
    renderer = Renderer(tokenizer)
    batched = TrainConfig(
        model=path,
        algorithm="ppo",
        num_steps=config.turns,
        num_envs=config.turns,
        max_new_tokens=config.max_new_tokens,
        epochs=1,
        minibatch_size=256,
        microbatch_size=64,
        lr=1e-5,
        env=EnvConfig(kwargs={"verify_iter": 1}),
    )
    single = replace(
        batched, num_steps=config.single_turns, num_envs=1, minibatch_size=1, microbatch_size=1
    )
    seconds: dict[str, list[tuple[float, float, int]]] = {"batched": [], "single": []}
    for repeat in range(config.repeats):
        for name, settings in (("batched", batched), ("single", single)):
            model = load_model(path)
            sampler = "cached" if name == "batched" else "generate"
            policy = ModelPolicy(
                model, renderer, max_new_tokens=config.max_new_tokens, sampler=sampler
            )
            learner = Learner(
                settings, ActorCritic(model, 1.0), Accelerator(cpu=True), tokenizer.pad_token_id
            )
            envs = make_envs(settings.env, settings.num_envs)
            stream = TaskStream(settings, 1, repeat + 1, 0, 1)
            began = time.perf_counter()
            episodes = rollout(envs, policy, stream, stream.ended)
            sampled = time.perf_counter()
            learner.learn(repeat + 1, episodes, to_experience(episodes, renderer))
            learned = time.perf_counter()
            turns = sum(len(episode.turns) for episode in episodes)
            seconds[name].append((sampled - began, learned - sampled, turns))
    rates = {}
    for name, runs in seconds.items():
        sampling = float(np.median([turns / s for s, _, turns in runs]))
        learning = float(np.median([turns / s for _, s, turns in runs]))
        both = float(np.median([turns / (a + b) for a, b, turns in runs]))
        rates[name] = (sampling, learning, both)
        print(
            f"update   {name}: {sampling:,.0f} turns/s sampled, {learning:,.0f} turns/s learned, "
            f"{both:,.0f} turns/s end to end"
        )
    ratios = [a / b for a, b in zip(rates["batched"], rates["single"], strict=True)]
    print(
        f"update   batched against one environment and minibatch 1: {ratios[0]:.1f} x sampling, "
        f"{ratios[1]:.1f} x learning, {ratios[2]:.1f} x end to end"
    )
