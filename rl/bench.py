"""Measures this project on the machine at hand: the command behind scripts/bench.sh."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import gymnasium
import numpy as np
import torch
from accelerate import Accelerator

import gym_cards
from gym_cards import hands, solver
from gym_dialogue import RandomPolicy, rollout
from gym_dialogue.command import EnvConfig, make_envs, run_command
from gym_policy import ModelPolicy, Renderer, load_model, load_tokenizer
from gym_policy.load import saved_checkpoints
from rl.actor_critic import ActorCritic
from rl.config import Config as TrainConfig
from rl.experience import to_experience
from rl.learner import Learner
from rl.train import TaskStream

Section = Literal["env", "rollout"]


@dataclass
class Config:
    """Measure the environment, and sampling with learning, batched against one at a time."""

    model: str = ""
    """The checkpoint that section rollout uses."""
    sections: list[Section] = field(default_factory=lambda: ["env", "rollout"])
    """What is measured."""
    turns: int = 512
    """Turns of the batched measurement."""
    single_turns: int = 48
    """Turns of the measurement with one environment and minibatch 1."""
    repeats: int = 3
    """Measurements of each kind, in turn; the median counts."""


def _seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def bench_env() -> None:
    """1,000 deals and 5,000 verified replies in one process; the solver on hands it never saw."""
    env = gymnasium.make(gym_cards.ENV_ID)
    replies = []
    rng = np.random.default_rng(0)
    for seed in range(200):
        env.reset(seed=seed)
        replies.append(env.unwrapped.mistaken_reply(rng))

    def deals_and_replies() -> None:
        env.reset(seed=0)
        for number in range(1000):
            env.reset()
            for reply in range(5):
                _, _, ended, _, _ = env.step(replies[(number + reply) % len(replies)])
                if ended:
                    break

    for cache in (solver._solve, solver._reachable_kept, hands._is_heldout):
        cache.cache_clear()
    print(f"env      1,000 deals and 5,000 verified replies: {_seconds(deals_and_replies):.2f} s")

    every = list(itertools.combinations_with_replacement(range(1, 14), 4))
    rng.shuffle(every)
    solver._solve.cache_clear()
    solver._reachable_kept.cache_clear()
    together = _seconds(lambda: [solver.solve(hand) for hand in every])

    def cold() -> None:
        for hand in every[:400]:
            solver._solve.cache_clear()
            solver._reachable_kept.cache_clear()
            solver.solve(hand)

    print(
        f"env      solving a hand never seen: {1e3 * together / len(every):.2f} ms on average over "
        f"all {len(every)}, {1e3 * _seconds(cold) / 400:.2f} ms with every cache emptied before it"
    )
    envs = [gymnasium.make(gym_cards.ENV_ID) for _ in range(64)]
    stream = TaskStream(TrainConfig(num_steps=5000), 1, 1, 0, 1)
    taken = _seconds(lambda: rollout(envs, RandomPolicy(), stream, stream.ended))
    print(f"env      dialogues by the random policy: {stream.played_turns / taken:,.0f} turns/s")


def bench_rollout(config: Config) -> None:
    """Turns per second of sampling and learning: many at once, and one at a time."""
    path = saved_checkpoints(config.model)[-1]
    tokenizer = load_tokenizer(path)
    renderer = Renderer(tokenizer)
    batched = TrainConfig(
        model=path,
        algorithm="ppo",
        num_steps=config.turns,
        num_envs=config.turns,
        max_new_tokens=40,
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
            policy = ModelPolicy(model, renderer, max_new_tokens=40)
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
            f"rollout  {name}: {sampling:,.0f} turns/s sampled, {learning:,.0f} turns/s learned, "
            f"{both:,.0f} turns/s end to end"
        )
    ratios = [a / b for a, b in zip(rates["batched"], rates["single"], strict=True)]
    print(
        f"rollout  batched against one environment and minibatch 1: {ratios[0]:.1f} x sampling, "
        f"{ratios[1]:.1f} x learning, {ratios[2]:.1f} x end to end"
    )


def main(config: Config) -> None:
    """The command."""
    print(
        f"machine  {torch.get_num_threads()} threads of torch {torch.__version__}, "
        f"Python {sys.version.split()[0]}"
    )
    if "env" in config.sections:
        bench_env()
    if "rollout" in config.sections:
        bench_rollout(config)


if __name__ == "__main__":
    run_command(main, Config)
