"""Draws an episode: its route and the walked path on a map, beside the views and the dialogue.

`python -m gym_virl.draw --seed=7 --position=4 --out=route.png` plays with the oracle;
`--turns=runs/NAME/turns.jsonl` plays what a checkpoint replied to the episode of that seed.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gym_command.command import run_command
from gym_command.ranges import Count, Seed, Share
from gym_dialogue import Episode, NoisyOraclePolicy, Policy, RecordedPolicy, Task, rollout
from gym_dialogue.checks import json_records, read_text
from gym_dialogue.errors import InputError
from gym_dialogue.make import EnvConfig, Kwargs, make_envs
from gym_virl import ENV_ID
from gym_virl.env import NavigationEnv
from gym_virl.geo import EARTH_RADIUS, Place
from gym_virl.rail import Position
from gym_virl.routes import Route
from gym_virl.scenery import city_panoramas, panorama_width
from gym_virl.streetview import view_grid
from gym_virl.world import CityRoutes, World

_SIDE = 320  # pixels of a view
_MARKS = {"turn": "^", "forward": "o", "stop": "s"}
_ORDERS = {
    "aligned": "front, right / back, left",
    "released": "135 degrees to the left, 45 to the left / 45 to the right, 135 to the right",
}
_TEXT_WIDTH, _TEXT_LINES = 92, 46


@dataclass
class Config:
    """Draw an episode of V-IRL navigation."""

    seed: Seed = 0
    """Of the episode (`env_seed` in turns.jsonl)."""
    route_idx: int | None = None
    """The route; None: as drawn from the seed."""
    position: Count = 1
    """Whose views and dialogue are shown, from 1."""
    env_kwargs: Kwargs = field(default_factory=dict)
    """Arguments of the environment, as in the suite that `turns` are of."""
    turns: str | None = None
    """turns.jsonl of a run or an evaluation: its replies are played. None: the oracle's."""
    checkpoint: str | None = None
    """Of turns.jsonl: whose replies. None: the last one's."""
    error_rate: Share = 0.0
    """Without `turns`: how often the oracle errs."""
    out: str = "route.png"
    """The picture to write."""


def read_replies(path: str, seed: int, checkpoint: str | None) -> list[str]:
    """Return what turns.jsonl has of an episode, in its first suite and decoding. Raises
    InputError.
    """
    try:
        rows = [row for _, row in json_records(read_text(path))]
        rows = [row for row in rows if row["env_seed"] == seed]
        labels = [row["checkpoint"] for row in rows]
        label = checkpoint or (labels[-1] if labels else None)
        rows = [row for row in rows if row["checkpoint"] == label]
        keys = [(row["suite"], row["decoding"], row["episode"]) for row in rows]
        replies = [row["reply"] for row, key in zip(rows, keys, strict=True) if key == keys[0]]
    except OSError as error:
        raise InputError(f"turns {path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"turns {path}: is no turns.jsonl of an evaluation: {error}") from error
    if not replies:
        raise InputError(
            f"turns {path}: has no episode with env_seed {seed} of {checkpoint or 'any'}"
        )
    return replies


def draw_episode(env: NavigationEnv, episode: Episode, number: int, path: str | Path) -> None:
    """Write the picture of an episode that `env` has just played; `number`, from 0, is the position
    whose views and dialogue it shows.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    positions = env.rail.positions
    won = [
        any(episode.turns[i].is_right for i in episode.turns_of(index))
        for index in range(len(episode.dialogues))
    ]
    figure = plt.figure(figsize=(15, 8.4))
    grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1), height_ratios=(1.15, 1))
    _draw_map(figure.add_subplot(grid[:, 0]), env, positions, won, number)
    views = figure.add_subplot(grid[0, 1])
    panorama = _with_views(env.world).panorama_at(positions[number].place)
    if panorama is None:
        views.text(0.5, 0.5, "no panorama", ha="center", va="center")
    else:
        views.imshow(view_grid(panorama, positions[number].heading, _SIDE, env.view_order))
        views.set_title(f"position {number + 1}: {_ORDERS[env.view_order]}", fontsize=9)
    views.axis("off")
    text = figure.add_subplot(grid[1, 1])
    text.axis("off")
    lines = []
    for message in episode.dialogues[number].messages:
        for line in f"{message.role}: {message.text}".splitlines():
            lines += textwrap.wrap(line, _TEXT_WIDTH, subsequent_indent="  ") or [""]
    if len(lines) > _TEXT_LINES:
        lines = [*lines[: _TEXT_LINES // 2], "...", *lines[-_TEXT_LINES // 2 :]]
    text.text(0, 1, "\n".join(lines), va="top", fontsize=6.4, family="monospace")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _draw_map(
    axis: Any, env: NavigationEnv, positions: Sequence[Position], won: Sequence[bool], number: int
) -> None:
    """Draw the streets, the route and every position, with a circle and an arrow at the one of this
    number.
    """
    route = env.route
    xy = _to_metres([route.start, *(m.place for m in route.milestones)], route.start)
    _draw_streets(axis, env.world.routes, route.start)
    axis.plot(*xy.T, color="tab:blue", linewidth=2, label="route", zorder=1)
    for mark, (place, milestone) in enumerate(zip(xy[1:], route.milestones, strict=True), start=1):
        label = "\n".join(textwrap.wrap(f"{mark}. {milestone.sight or ''}", 24))
        axis.annotate(
            label, place, xytext=(9, 5), textcoords="offset points", fontsize=7, color="0.25"
        )
    places = _to_metres([position.place for position in positions], route.start)
    _draw_positions(axis, places, positions, won)
    size = np.ptp(xy, axis=0).max()  # metres, of the map's longer side
    _draw_walker(axis, places[number], positions[number].heading, 0.12 * max(size, 100))
    middle, half = (xy.max(axis=0) + xy.min(axis=0)) / 2, size / 2 + 70
    axis.set_xlim(middle[0] - half, middle[0] + half)
    axis.set_ylim(middle[1] - half, middle[1] + half)
    axis.set_aspect("equal")
    axis.set_xlabel("metres to the east of the start")
    axis.set_ylabel("metres to the north")
    axis.set_title(f"{route.name}: {route.start_name} to {route.destination}", fontsize=10)
    axis.legend(fontsize=8, loc="best")


def _draw_streets(axis: Any, routes: Sequence[Route], origin: Place) -> None:
    """Draw the streets of a procedural city; of routes from files none are known."""
    if not isinstance(routes, CityRoutes):
        return
    city = routes.city
    nodes = _to_metres([city.to_place(node) for node in city.nodes], origin)
    for a, b in city.streets:
        axis.plot(*nodes[[a, b]].T, color="0.85", linewidth=6, solid_capstyle="round", zorder=0)


def _draw_positions(
    axis: Any, places: np.ndarray, positions: Sequence[Position], won: Sequence[bool]
) -> None:
    """Mark each position by its kind and by how it went; `won` ends at the last one reached."""
    labelled = set()
    for index, (place, position) in enumerate(zip(places, positions, strict=True)):
        if index >= len(won):
            color, label = "0.7", "not reached"
        else:
            color = "tab:green" if won[index] else "tab:red"
            label = f"{position.kind}, {'right' if won[index] else 'failed'}"
        axis.plot(
            *place,
            marker=_MARKS[position.kind],
            color=color,
            markersize=8,
            linestyle="none",
            label=None if label in labelled else label,
            zorder=3,
        )
        labelled.add(label)


def _draw_walker(axis: Any, place: np.ndarray, heading: float, length: float) -> None:
    """Circle a place, with an arrow of this length, in metres, to where the walker looks."""
    facing = np.radians(heading)
    axis.annotate(
        "",
        place + length * np.array([np.sin(facing), np.cos(facing)]),
        place,
        arrowprops={"arrowstyle": "->", "color": "black", "linewidth": 2},
        zorder=4,
    )
    axis.plot(*place, "o", markersize=17, fillstyle="none", color="black", zorder=4)


def _to_metres(places: Sequence[Place], origin: Place) -> np.ndarray:
    """Return (n, 2) metres to the east and to the north of `origin`, near enough for a map."""
    beyond = np.asarray(places) - np.asarray(origin)
    return np.radians(beyond[:, ::-1]) * EARTH_RADIUS * [np.cos(np.radians(origin[0])), 1]


def _with_views(world: World) -> World:
    """Return the world, a city's with panoramas that are sharp enough to be looked at."""
    if not isinstance(world.routes, CityRoutes):
        return world
    city = world.routes.city
    return World(world.routes, city_panoramas(city.name, city.seed, panorama_width(_SIDE)))


def main(config: Config) -> None:
    """Run the command."""
    if config.seed < 0:
        raise InputError(f"seed={config.seed}: must be at least 0")
    (env,) = make_envs(EnvConfig(ENV_ID, config.env_kwargs), 1)
    policy: Policy = NoisyOraclePolicy(config.error_rate)
    if config.turns is not None:
        replies = read_replies(config.turns, config.seed, config.checkpoint)
        policy = RecordedPolicy(replies)
    navigation: Any = env.unwrapped
    options = None if config.route_idx is None else {"route_idx": config.route_idx}
    (episode,) = rollout([env], policy, [Task(config.seed, (config.seed,), options)])
    if isinstance(policy, RecordedPolicy):
        policy.check_all_said()
    if not 1 <= config.position <= len(episode.dialogues):
        raise InputError(
            f"position={config.position}: must be from 1 to {len(episode.dialogues)}, the "
            "positions that were reached"
        )
    try:
        draw_episode(navigation, episode, config.position - 1, config.out)
    except OSError as error:
        raise InputError(f"out {config.out}: cannot be written: {error.strerror}") from error
    print(
        f"{config.out}: {navigation.route.name}, {len(episode.dialogues)} positions, "
        f"{'reached the destination' if episode.is_success else 'failed'}"
    )


if __name__ == "__main__":
    run_command(main, Config)
