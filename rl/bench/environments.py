"""The environments alone: deals, verified replies, routes, street views."""

from __future__ import annotations

import functools
import itertools
import resource

import gymnasium
import numpy as np

import gym_cards
import gym_virl
from gym_cards import solver
from gym_dialogue import RandomPolicy, rollout
from gym_dialogue.split import is_held_out
from gym_virl.city import City
from gym_virl.scenery import CityPanoramas
from gym_virl.streetview import Panorama, view_grid
from rl.bench.config import Config, seconds
from rl.bench.table import Ratio
from rl.config import RLConfig as TrainConfig
from rl.tasks import TaskStream


def bench_env(config: Config) -> list[Ratio]:
    """1,000 deals and 5,000 verified replies in one process; the solver on hands it never saw;
    deals with what it remembers against a search for each, many dialogues at once against one.
    """
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
    print(f"env      1,000 deals and 5,000 verified replies: {seconds(deals_and_replies):.2f} s")

    every = list(itertools.combinations_with_replacement(range(1, 14), 4))
    rng.shuffle(every)
    solver._solve.cache_clear()
    solver._reachable_kept.cache_clear()
    together = seconds(lambda: [solver.solve(hand) for hand in every])

    def cold() -> None:
        for hand in every[:400]:
            solver._solve.cache_clear()
            solver._reachable_kept.cache_clear()
            solver.solve(hand)

    print(
        f"env      solving a hand never seen: {1e3 * together / len(every):.2f} ms on average over "
        f"all {len(every)}, {1e3 * seconds(cold) / 400:.2f} ms with every cache emptied before it"
    )

    def deals(remembers: bool) -> None:
        for number in range(200):
            if not remembers:
                for cache in (solver._solve, solver._reachable_kept, is_held_out):
                    cache.cache_clear()
            env.reset(seed=number)

    rates = [200 / seconds(deals, remembers) for remembers in (False, True)]
    print(f"env      deals: {rates[1]:,.0f} a second, {rates[0]:,.0f} with a search for each")
    turns = []
    for together in (64, 1):
        envs = [gymnasium.make(gym_cards.ENV_ID) for _ in range(together)]
        stream = TaskStream(TrainConfig(turns_per_update=2500), 1, 1, 0, 1)
        taken = seconds(rollout, envs, RandomPolicy(), stream, stream.ended)
        turns.append(stream.played_turns / taken)
    print(
        f"env      dialogues by the random policy: {turns[0]:,.0f} turns/s, {turns[1]:,.0f} alone"
    )
    return [
        Ratio("env", "deals against a search for each", rates[1] / rates[0]),
        Ratio("env", "64 dialogues at once against one, by the random policy", turns[0] / turns[1]),
    ]


def bench_navigation(config: Config) -> list[Ratio]:
    """V-IRL in one process: steps in words, grids of views, routes, and what memory does. Nothing
    to hold it against.
    """
    episodes = config.episodes
    city = City("new_york", seed=1)
    taken = seconds(lambda: [city.route(number) for number in range(1000)])
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

    taken = seconds(lambda: walk(1))
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
    taken = [seconds(lambda: view_grid(panorama, 77.0, 320, "aligned")) for _ in range(20)]
    print(f"virl     a grid of four views of 320 pixels: {1e3 * np.median(taken):.1f} ms")
    for width in (256, 2048):
        load = CityPanoramas(city, width).load
        load(0)
        taken = [seconds(functools.partial(load, number)) for number in range(1, 9)]
        print(f"virl     drawing a panorama {width} pixels wide: {1e3 * np.median(taken):.0f} ms")
    return []
