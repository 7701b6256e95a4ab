"""The rail of a route: the positions that a policy comes to in turn, and what is right there.

A policy's wrong action is not executed, so these are all positions that there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gym_virl.geo import Place, between, distance, relative
from gym_virl.routes import Route

Kind = Literal["turn", "forward", "stop"]
Role = Literal["start", "between", "intersection", "destination"]

_SHORT_LEG = 5.0  # metres: nothing is interpolated on such a leg
_CLEAR_OF_ENDS = 8.0  # metres that a panorama between two milestones keeps from both


@dataclass(frozen=True)
class Stretch:
    """What the instruction says of one leg: the turn that it starts with, and where it ends.

    `turn` has the turn's two names, relative and compass; `sight` what is to be seen at its end.
    """

    turn: tuple[str, str]
    sight: str | None


@dataclass(frozen=True)
class Position:
    """A place on the rail. `heading` is the agent's, `step` the number, from 0, of the instruction
    step that is being followed; `turn` the two names of the turn to take, relative and compass.
    """

    kind: Kind
    place: Place
    heading: float
    step: int
    sight: str | None = None
    is_intersection: bool = False
    turn: tuple[str, str] | None = None

    @property
    def role(self) -> Role:
        """Return which part of the route it is."""
        if self.kind == "turn":
            return "intersection" if self.is_intersection else "start"
        return "between" if self.kind == "forward" else "destination"

    def action(self, absolute: bool) -> str:
        """Return the right action, by compass names or by relative ones."""
        if self.kind != "turn" or self.turn is None:
            return f"{self.kind}()"
        return f"turn_direction({self.turn[1 if absolute else 0]})"


@dataclass(frozen=True)
class Rail:
    """The positions of a route, and its legs."""

    positions: tuple[Position, ...]
    stretches: tuple[Stretch, ...]


def lay_rail(
    route: Route,
    rng: np.random.Generator,
    straight_line_length: int = 5,
    drop_rate: float = 0.5,
    relocate: Callable[[Place], Place | None] | None = None,
) -> Rail:
    """Return the rail of a route; what is random about it comes from `rng`.

    On each leg longer than 5 m `straight_line_length` points are interpolated, the last of them on
    the milestone, and each is dropped with probability `drop_rate`. With `relocate`, which returns
    the nearest known place or None, positions are moved there; milestones that have none stay where
    they are, points between them are left out, as are those within 8 m of either end.
    """
    init_heading = route.init_heading % 360 if route.init_heading else float(rng.integers(1, 360))
    way = [route.start, *(milestone.place for milestone in route.milestones)]
    moved = [(relocate(place) or place) if relocate else place for place in way]
    positions: list[Position] = []
    stretches: list[Stretch] = []
    arrival, sight = init_heading, None
    for leg, milestone in enumerate(route.milestones):
        turn = (relative(arrival, milestone.heading), milestone.direction)
        positions.append(Position("turn", moved[leg], arrival, 2 * leg, sight, leg > 0, turn))
        stretches.append(Stretch(turn, milestone.sight))
        ends = moved[leg], moved[leg + 1]
        if distance(way[leg], way[leg + 1]) > _SHORT_LEG:
            kept = rng.random(straight_line_length) >= drop_rate
            for number in np.flatnonzero(kept).tolist():
                share = (number + 1) / straight_line_length
                place = between(way[leg], way[leg + 1], share)
                if relocate is not None:
                    moved_place = relocate(place)
                    if moved_place is None or moved_place == positions[-1].place:
                        continue
                    place = moved_place
                    if min(distance(place, end) for end in ends) <= _CLEAR_OF_ENDS:
                        continue
                positions.append(Position("forward", place, milestone.heading, 2 * leg + 1))
        arrival, sight = milestone.heading, milestone.sight
    positions.append(Position("stop", moved[-1], arrival, 2 * len(stretches) - 1, sight))
    return Rail(tuple(positions), tuple(stretches))
