"""Measures this project on the machine at hand: the command behind scripts/bench.sh."""

from __future__ import annotations

import functools
import itertools
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import gymnasium
import numpy as np
import torch
from accelerate import Accelerator
from transformers import MllamaProcessor
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

import gym_cards
import gym_virl
from gym_cards import solver
from gym_dialogue import RandomPolicy, rollout
from gym_dialogue.command import EnvConfig, make_envs, run_command
from gym_dialogue.split import is_held_out
from gym_policy import ModelPolicy, Renderer, load_model, load_tokenizer
from gym_policy.adapter import add_adapter
from gym_policy.architecture import load_architecture
from gym_policy.load import auto_class, saved_checkpoints
from gym_policy.vision import checkpoint_activations
from gym_policy.zero import join_processes
from gym_virl.city import City
from gym_virl.scenery import CityPanoramas
from gym_virl.streetview import Panorama, view_grid
from rl.actor_critic import ActorCritic
from rl.config import Config as TrainConfig
from rl.config import LoraSettings
from rl.experience import to_experience
from rl.learner import Learner
from rl.train import TaskStream

Section = Literal["env", "navigation", "rollout", "vision"]


@dataclass
class Config:
    """Measure the environment, and sampling with learning, batched against one at a time."""

    model: str = ""
    """The checkpoint that section rollout uses."""
    sections: list[Section] = field(default_factory=lambda: ["env", "navigation", "rollout"])
    """What is measured."""
    turns: int = 512
    """Turns of the batched measurement."""
    single_turns: int = 48
    """Turns of the measurement with one environment and minibatch 1."""
    episodes: int = 10_000
    """Episodes over which section navigation watches memory."""
    repeats: int = 3
    """Measurements of each kind, in turn; the median counts."""
    architecture: str = "meta-llama/Llama-3.2-11B-Vision-Instruct"
    """What section vision builds with random weights: a directory or a hub name with a Mllama's
    configuration."""
    vision_tokenizer: str = ""
    """A checkpoint whose tokenizer section vision uses, in place of the architecture's own."""
    vision_turns: int = 64
    """Turns of the update in section vision."""
    vision_batch: int = 16
    """Dialogues that section vision samples together; it learns from two together."""
    vision_new_tokens: int = 128
    """Tokens of each reply there: random weights hardly ever end one."""
    lora_rank: int = 16
    """Of the adapters that section vision trains, on all linear layers but the vision tower's."""


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

    for cache in (solver._solve, solver._reachable_kept, is_held_out):
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


def bench_navigation(episodes: int) -> None:
    """V-IRL in one process: steps in words, grids of views, routes, and what memory does."""
    city = City("new_york", seed=1)
    taken = _seconds(lambda: [city.route(number) for number in range(1000)])
    print(f"virl     1,000 routes of a new city: {taken:.2f} s")

    env = gymnasium.make(gym_virl.ENV_ID)
    replies = []
    for seed in range(min(500, episodes)):
        env.reset(seed=seed)
        replies.append([])
        ended = False
        while not ended:
            replies[-1].append(env.unwrapped.oracle_reply())
            _, _, ended, _, _ = env.step(replies[-1][-1])

    def walk(times: int) -> None:
        for _ in range(times):
            for seed, said in enumerate(replies):
                env.reset(seed=seed)
                for reply in said:
                    env.step(reply)

    taken = _seconds(lambda: walk(1))
    steps = sum(map(len, replies))
    print(
        f"virl     {steps:,} steps of {len(replies)} routes in words: {steps / taken:,.0f} steps/s"
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    walk(episodes // len(replies))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"virl     {episodes:,} episodes more: {grown:.1f} MiB of memory more at the peak")

    pixels = np.random.default_rng(0).integers(0, 256, (1024, 2048, 3), dtype=np.uint8)
    panorama = Panorama(pixels, 30.0)
    view_grid(panorama, 0.0, 320, "aligned")
    taken = [_seconds(lambda: view_grid(panorama, 77.0, 320, "aligned")) for _ in range(20)]
    print(f"virl     a grid of four views of 320 pixels: {1e3 * np.median(taken):.1f} ms")
    for width in (256, 2048):
        load = CityPanoramas(city, width).load
        load(0)
        taken = [_seconds(functools.partial(load, number)) for number in range(1, 9)]
        print(f"virl     drawing a panorama {width} pixels wide: {1e3 * np.median(taken):.0f} ms")


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


def bench_vision(config: Config) -> None:
    """One PPO update from images, by adapters on an architecture with random weights: turns per
    second and, on a GPU, the most memory.
    """
    device = join_processes().device
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    architecture = load_architecture(config.architecture)
    torch.manual_seed(0)
    with torch.device(device):
        model = auto_class(architecture).from_config(architecture, dtype=dtype).eval()
    side, tiles = (getattr(architecture.vision_config, n) for n in ("image_size", "max_num_tiles"))
    settings = TrainConfig(
        algorithm="ppo",
        num_steps=config.vision_turns,
        num_envs=config.vision_batch,
        max_new_tokens=config.vision_new_tokens,
        epochs=1,
        minibatch_size=config.vision_batch,
        microbatch_size=2,
        lr=1e-5,
        lora=LoraSettings(rank=config.lora_rank),
        freeze=["vision"],
        gradient_checkpointing=True,
        env=EnvConfig(
            kwargs={"language_only": False, "resolution": 2 * side if tiles > 1 else side}
        ),
    )
    envs = make_envs(settings.env, settings.num_envs)
    tokenizer = load_tokenizer(saved_checkpoints(config.vision_tokenizer)[-1])
    images = MllamaImageProcessorPil(size={"height": side, "width": side}, max_image_tiles=tiles)
    processor = MllamaProcessor(images, tokenizer, chat_template=tokenizer.chat_template)
    renderer = Renderer(tokenizer, processor)
    checkpoint_activations(model)
    lora = settings.lora
    adapter = add_adapter(
        model, "random", lora.rank, lora.alpha, 0.0, lora.targets, settings.freeze
    )
    model.to(device)
    actor_critic = ActorCritic(model, 1.0, adapter=adapter)
    accelerator = Accelerator(cpu=device.type == "cpu")
    learner = Learner(settings, actor_critic, accelerator, tokenizer.pad_token_id)
    policy = ModelPolicy(
        model,
        renderer,
        max_new_tokens=settings.max_new_tokens,
        batch_size=config.vision_batch,
    )
    stream = TaskStream(settings, 1, 1, 0, 1)
    began = time.perf_counter()
    with learner.sampling():
        episodes = rollout(envs, policy, stream, stream.ended)
    sampled = time.perf_counter()
    stats = learner.learn(1, episodes, to_experience(episodes, renderer, keep_features=True))
    ended = time.perf_counter()
    turns = sum(len(episode.turns) for episode in episodes)
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"vision   {parameters / 1e6:,.1f} M parameters in {dtype}, LoRA of rank {lora.rank}, "
        f"{side} pixels x {tiles} tiles: {turns} turns in {ended - began:.1f} s, "
        f"{turns / (ended - began):.2f} turns/s ({turns / (sampled - began):.2f} sampled, "
        f"{turns / (ended - sampled):.2f} learned); log-probabilities off by "
        f"{stats['logprob_gap']:.1e} a token"
    )
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
        print(f"vision   at most {peak:.1f} GiB of {torch.cuda.get_device_name()}")


def main(config: Config) -> None:
    """The command."""
    print(
        f"machine  {torch.get_num_threads()} threads of torch {torch.__version__}, "
        f"Python {sys.version.split()[0]}"
    )
    if "env" in config.sections:
        bench_env()
    if "navigation" in config.sections:
        bench_navigation(config.episodes)
    if "rollout" in config.sections:
        bench_rollout(config)
    if "vision" in config.sections:
        bench_vision(config)


if __name__ == "__main__":
    run_command(main, Config)
