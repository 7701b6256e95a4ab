"""The environments alone: deals, verified replies, routes, street views."""

from __future__ import annotations

import functools
import itertools
import resource
from typing import Any

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
from rl.bench.config import BenchConfig, seconds
from rl.bench.table import Ratio
from rl.config import RLConfig
from rl.tasks import TaskStream

_COLD_HANDS = 400  # hands solved with empty caches
_DEALS = 200


def bench_env(config: BenchConfig) -> list[Ratio]:
    """Measure the card game in one process: deals and verified replies, the solver, and dialogues.

    Deals are compared with and without caches, dialogues many at a time and one at a time.
    """
    env: Any = gymnasium.make(gym_cards.ENV_ID)
    _clear_caches()
    _bench_replies(env)
    _bench_solver()
    cold, cached = (_deals_per_second(env, keep) for keep in (False, True))
    print(f"env      deals: {cached:,.0f} a second, {cold:,.0f} with a search for each")
    many, single = (_random_turns_per_second(count) for count in (64, 1))
    print(f"env      dialogues by the random policy: {many:,.0f} turns/s, {single:,.0f} alone")
    return [
        Ratio("env", "deals against a search for each", cached / cold),
        Ratio("env", "64 dialogues at once against one, by the random policy", many / single),
    ]


def _clear_solver() -> None:
    solver._solve.cache_clear()
    solver._reachable_kept.cache_clear()


def _clear_caches() -> None:
    _clear_solver()
    is_held_out.cache_clear()


def _bench_replies(env: Any) -> None:
    """Measure 1,000 deals with up to 5 wrong or right replies each."""
    replies = []
    rng = np.random.default_rng(0)
    for seed in range(200):
        env.reset(seed=seed)
        replies.append(env.unwrapped.mistaken_reply(rng))
    _clear_caches()

    def play() -> None:
        env.reset(seed=0)
        for number in range(1000):
            env.reset()
            for reply in range(5):
                _, _, ended, _, _ = env.step(replies[(number + reply) % len(replies)])
                if ended:
                    break

    print(f"env      1,000 deals and 5,000 verified replies: {seconds(play):.2f} s")


def _bench_solver() -> None:
    """Measure the solver on all hands in random order, and on some with empty caches."""
    hands = list(itertools.combinations_with_replacement(range(1, 14), 4))
    np.random.default_rng(0).shuffle(hands)
    _clear_solver()
    together = seconds(lambda: [solver.solve(hand) for hand in hands])

    def solve_cold() -> None:
        for hand in hands[:_COLD_HANDS]:
            _clear_solver()
            solver.solve(hand)

    cold = seconds(solve_cold)
    print(
        f"env      solving a hand never seen: {1e3 * together / len(hands):.2f} ms on average over "
        f"all {len(hands)}, {1e3 * cold / _COLD_HANDS:.2f} ms with every cache emptied before it"
    )


def _deals_per_second(env: Any, keep_caches: bool) -> float:
    def deal() -> None:
        for number in range(_DEALS):
            if not keep_caches:
                _clear_caches()
            env.reset(seed=number)

    return _DEALS / seconds(deal)


def _random_turns_per_second(count: int) -> float:
    """Return turns per second of the random policy in `count` dialogues at a time."""
    envs = [gymnasium.make(gym_cards.ENV_ID) for _ in range(count)]
    stream = TaskStream(RLConfig(turns_per_update=2500), 1, 1, 0, 1)
    taken = seconds(rollout, envs, RandomPolicy(), stream, stream.ended)
    return stream.played_turns / taken


def bench_navigation(config: BenchConfig) -> list[Ratio]:
    """Measure V-IRL in one process: routes, steps in words, memory, grids of views. It has no
    baseline, so there are no ratios.
    """
    city = City("new_york", seed=1)
    taken = seconds(lambda: [city.route(number) for number in range(1000)])
    print(f"virl     1,000 routes of a new city: {taken:.2f} s")
    _bench_walks(config.episodes)
    _bench_views(city)
    return []


def _bench_walks(episodes: int) -> None:
    """Measure steps per second of right replies, and the growth of memory over many episodes."""
    env: Any = gymnasium.make(gym_virl.ENV_ID)
    routes = [_right_replies(env, seed) for seed in range(min(500, episodes))]

    def walk(times: int) -> None:
        for _ in range(times):
            for seed, replies in enumerate(routes):
                env.reset(seed=seed)
                for reply in replies:
                    env.step(reply)

    taken = seconds(walk, 1)
    steps = sum(len(replies) for replies in routes)
    print(
        f"virl     {steps:,} steps of {len(routes)} routes in words: {steps / taken:,.0f} steps/s"
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    walk(episodes // len(routes))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"virl     {episodes:,} episodes more: {grown:.1f} MiB of memory more at the peak")


def _right_replies(env: Any, seed: int) -> list[str]:
    """Return the replies that solve an episode."""
    env.reset(seed=seed)
    replies: list[str] = []
    ended = False
    while not ended:
        replies.append(env.unwrapped.oracle_reply())
        _, _, ended, _, _ = env.step(replies[-1])
    return replies


def _bench_views(city: City) -> None:
    """Measure grids of street views, and drawing a panorama."""
    pixels = np.random.default_rng(0).integers(0, 256, (1024, 2048, 3), dtype=np.uint8)
    panorama = Panorama(pixels, 30.0)
    view_grid(panorama, 0.0, 320, "aligned")
    times = [seconds(lambda: view_grid(panorama, 77.0, 320, "aligned")) for _ in range(20)]
    print(f"virl     a grid of four views of 320 pixels: {1e3 * np.median(times):.1f} ms")
    for width in (256, 2048):
        load = CityPanoramas(city, width).load
        load(0)
        times = [seconds(functools.partial(load, number)) for number in range(1, 9)]
        print(f"virl     drawing a panorama {width} pixels wide: {1e3 * np.median(times):.0f} ms")
