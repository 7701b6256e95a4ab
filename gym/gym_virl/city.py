"""The procedural city: streets, places with names, and routes, all from a style and a seed.

A lattice of streets is turned, skewed and bent in the manner of the style; the blocks between them
are built up, with places of different kinds at corners and along the streets. Coordinates lie where
the city lies that lends its name; nothing else is taken from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from gym_dialogue.errors import InputError
from gym_virl.geo import EARTH_RADIUS, Place, compass, heading, side, wrap
from gym_virl.routes import Milestone, Route, destination_sight, landmark_sight

KINDS = (
    "Bank",
    "Bakery",
    "Bookshop",
    "Cafe",
    "Cinema",
    "Hotel",
    "Laundry",
    "Market",
    "Museum",
    "Pharmacy",
    "School",
    "Theatre",
)
"""Kinds of places, each with a front of its own (`gym_virl.scenery`)."""
OWNERS = (
    "Abbott",
    "Birch",
    "Corliss",
    "Dunmore",
    "Ellery",
    "Fenwick",
    "Garland",
    "Hollis",
    "Ingram",
    "Juniper",
    "Kestrel",
    "Lorimer",
    "Marlow",
    "Norwood",
    "Orchard",
    "Pemberton",
)
"""What places are named after."""

MAX_LEGS = 8
MIN_LEGS = 2
_SIZE = 10  # intersections along each side of the lattice
_PANORAMA_SPACING = 10.0  # metres
_CORNER_SHARE = 0.7  # of intersections with a landmark
_STRAIGHT_SHARE = 0.3  # of intersections on a route that are crossed
_GRID_STREAM, _ROUTE_STREAM = 0xC17, 0x207
_SETBACK = 14.0  # metres along each street from an intersection to the landmark at its corner


@dataclass(frozen=True)
class Style:
    """How a city looks. Lengths in metres, angles in degrees, colours RGB."""

    centre: Place
    block: tuple[float, float]
    turned: float = 0.0
    skewed: float = 0.0
    uneven: float = 0.0  # by how much corners are off the lattice
    bent: float = 0.0  # by how many degrees the outermost streets are turned against the middle
    street: float = 18.0  # width, with pavements
    heights: tuple[float, float] = (12.0, 30.0)
    lot: float = 16.0  # width of a house
    walls: tuple[tuple[int, int, int], ...] = ((150, 110, 95), (120, 120, 125), (170, 160, 145))
    windows: tuple[float, float] = (3.0, 3.2)  # of one window's cell
    sky: tuple[tuple[int, int, int], tuple[int, int, int]] = ((90, 140, 205), (190, 215, 240))
    road: tuple[int, int, int] = (82, 82, 86)
    pavement: tuple[int, int, int] = (150, 148, 142)
    light: tuple[float, float, float] = (1.0, 1.0, 1.0)  # what every colour is multiplied by
    sun: float = 140.0  # heading that the light comes from


STYLES = {
    "new_york": Style(
        (40.7441, -73.9857), (96.0, 112.0), turned=29.0, bent=-60.0, heights=(22.0, 70.0)
    ),
    "milan": Style(
        (45.4685, 9.1824),
        (92.0, 88.0),
        uneven=13.0,
        bent=40.0,
        heights=(12.0, 22.0),
        walls=((214, 178, 128), (222, 196, 150), (200, 150, 110)),
        sky=((120, 165, 215), (235, 225, 205)),
        road=(112, 104, 96),
        light=(1.05, 1.0, 0.9),
        sun=230.0,
    ),
    "new_delhi": Style(
        (28.6129, 77.2090),
        (120.0, 116.0),
        turned=12.0,
        bent=70.0,
        heights=(5.0, 14.0),
        lot=22.0,
        walls=((205, 150, 110), (230, 210, 180), (190, 120, 95)),
        sky=((190, 180, 160), (226, 212, 186)),
        pavement=(176, 156, 126),
        light=(1.04, 0.98, 0.86),
        sun=180.0,
    ),
    "buenos_aires": Style(
        (-34.6037, -58.3816),
        (100.0, 100.0),
        turned=4.0,
        uneven=3.0,
        heights=(10.0, 34.0),
        lot=12.0,
        walls=((228, 224, 210), (205, 200, 190), (180, 175, 160)),
        sky=((70, 130, 210), (170, 205, 240)),
        sun=350.0,
    ),
    "london": Style(
        (51.5101, -0.1342),
        (84.0, 76.0),
        turned=-14.0,
        uneven=17.0,
        skewed=8.0,
        heights=(11.0, 19.0),
        lot=8.0,
        walls=((142, 78, 62), (160, 96, 74), (226, 222, 214)),
        windows=(2.2, 3.4),
        sky=((150, 156, 165), (196, 200, 204)),
        road=(70, 72, 76),
        light=(0.86, 0.9, 0.95),
    ),
    "hong_kong": Style(
        (22.2808, 114.1588),
        (72.0, 82.0),
        turned=-24.0,
        skewed=14.0,
        uneven=8.0,
        street=14.0,
        heights=(35.0, 90.0),
        lot=10.0,
        walls=((205, 205, 200), (172, 190, 186), (214, 176, 166)),
        windows=(1.8, 2.6),
        sky=((140, 160, 175), (205, 212, 216)),
        light=(0.92, 0.96, 1.0),
        sun=200.0,
    ),
    "melbourne": Style(
        (-37.8136, 144.9631),
        (112.0, 102.0),
        turned=-20.0,
        heights=(9.0, 44.0),
        lot=18.0,
        walls=((120, 132, 142), (186, 172, 150), (96, 104, 110)),
        sky=((60, 110, 190), (200, 220, 240)),
        pavement=(120, 122, 124),
        sun=20.0,
    ),
    "lagos": Style(
        (6.4550, 3.3841),
        (88.0, 94.0),
        turned=35.0,
        uneven=15.0,
        heights=(4.0, 16.0),
        lot=14.0,
        walls=((236, 200, 90), (120, 170, 150), (226, 226, 216)),
        sky=((170, 190, 200), (224, 222, 210)),
        road=(128, 96, 72),
        pavement=(168, 122, 86),
        light=(1.06, 1.0, 0.88),
        sun=90.0,
    ),
    "san_francisco": Style(
        (37.7880, -122.4075),
        (104.0, 84.0),
        turned=-9.0,
        skewed=-6.0,
        heights=(8.0, 18.0),
        lot=7.5,
        walls=((190, 205, 220), (226, 190, 186), (206, 216, 180)),
        windows=(2.4, 3.0),
        sky=((160, 180, 200), (216, 222, 228)),
        light=(0.95, 0.97, 1.0),
        sun=250.0,
    ),
}
"""The nine cities of the V-IRL mini-benchmark's shape, by name."""


@dataclass(frozen=True)
class Landmark:
    """A place with a name, at (x east, y north) metres from the middle of the city; one at a corner
    is in the `block` whose row and column in the lattice are given.
    """

    name: str
    kind: str
    at: tuple[float, float]
    block: tuple[int, int] | None = None


class City:
    """A city of a style and a seed; equal arguments make equal cities.

    Nodes of the street graph are numbered row by row; positions on the ground are (x, y): metres to
    the east and to the north of the centre.
    """

    def __init__(self, name: str, seed: int = 0):
        if name not in STYLES:
            raise InputError(f"city {name!r}: must be one of {', '.join(STYLES)}")
        self.name, self.seed, self.style = name, seed, STYLES[name]
        self._key = (seed, list(STYLES).index(name))
        rng = np.random.default_rng([_GRID_STREAM, *self._key])
        # With a ring around the streets, for the outermost blocks: (_SIZE + 2, _SIZE + 2, 2).
        self.lattice = self._lay_streets(rng)
        self.nodes = self.lattice[1:-1, 1:-1].reshape(-1, 2)
        self.neighbours = [self._beside(node) for node in range(len(self.nodes))]
        self.corners = [self._open_corner(node, rng) for node in range(len(self.nodes))]
        # One place on each side of each street, at its middle; (a, b) has it on the right of one
        # who walks from a to b.
        self.fronts = {
            (a, b): self._open_place(rng, self._beside_street(a, b))
            for a in range(len(self.nodes))
            for b in self.neighbours[a]
        }

    def node_at(self, row: int, column: int) -> int | None:
        """Return the node at a place of the lattice; None on the ring around the streets."""
        if not (0 < row <= _SIZE and 0 < column <= _SIZE):
            return None
        return (row - 1) * _SIZE + column - 1

    def place_in_lattice(self, node: int) -> tuple[int, int]:
        """Return the row and the column of a node in the lattice."""
        row, column = divmod(node, _SIZE)
        return row + 1, column + 1

    def to_place(self, xy: Sequence[float] | np.ndarray) -> Place:
        """Return degrees, to 7 digits, of a position on the ground."""
        lat, lng = self.style.centre
        north = math.degrees(xy[1] / EARTH_RADIUS)
        east = math.degrees(xy[0] / (EARTH_RADIUS * math.cos(math.radians(lat))))
        return round(lat + north, 7), round(wrap(lng + east), 7)

    def route(self, number: int, max_legs: int = MAX_LEGS) -> Route:
        """Return one of endlessly many routes of 2 to `max_legs` legs."""
        rng = np.random.default_rng([_ROUTE_STREAM, *self._key, number])
        legs = int(rng.integers(MIN_LEGS, max_legs + 1))
        while True:
            walk = self._walk(rng, legs)
            if walk is not None:
                kind = f"-{max_legs}" if max_legs < MAX_LEGS else ""
                return self._to_route(walk, rng, f"{self.name}-{number}{kind}")

    def points_between(self, a: int, b: int) -> np.ndarray:
        """Return (n, 2) where panoramas stand on a street, without its ends: about 10 m apart, the
        same in both directions, one of them in the middle.
        """
        a, b = min(a, b), max(a, b)
        length = np.linalg.norm(self.nodes[b] - self.nodes[a])
        half = max(1, round(length / 2 / _PANORAMA_SPACING))
        shares = np.arange(1, 2 * half) / (2 * half)
        return self.nodes[a] + shares[:, None] * (self.nodes[b] - self.nodes[a])

    @property
    def streets(self) -> list[tuple[int, int]]:
        """Return every street once, from the lower to the higher node."""
        return [(a, b) for a in range(len(self.nodes)) for b in self.neighbours[a] if a < b]

    def _lay_streets(self, rng: np.random.Generator) -> np.ndarray:
        style = self.style
        steps = np.arange(-1, _SIZE + 1) - (_SIZE - 1) / 2
        x, y = np.meshgrid(steps * style.block[0], steps * style.block[1])
        x = x + y * math.tan(math.radians(style.skewed))
        xy = np.stack([x.ravel(), y.ravel()], axis=1)
        xy += rng.uniform(-1, 1, xy.shape) * style.uneven
        radius = np.linalg.norm(xy, axis=1)
        angle = -np.radians(style.turned + style.bent * radius / radius.max())
        cos, sin = np.cos(angle), np.sin(angle)
        xy = np.stack([xy[:, 0] * cos - xy[:, 1] * sin, xy[:, 0] * sin + xy[:, 1] * cos], axis=1)
        return xy.reshape(_SIZE + 2, _SIZE + 2, 2)

    def _beside(self, node: int) -> list[int]:
        row, column = self.place_in_lattice(node)
        beside = [(row + 1, column), (row, column + 1), (row - 1, column), (row, column - 1)]
        return [other for place in beside if (other := self.node_at(*place)) is not None]

    def _open_corner(self, node: int, rng: np.random.Generator) -> Landmark | None:
        """Return a landmark on one of the four blocks around an intersection, or none."""
        quadrant = int(rng.integers(4))
        place = self._name(rng)
        if rng.random() >= _CORNER_SHARE:
            return None
        row, column = self.place_in_lattice(node)
        up, right = 2 * (quadrant // 2) - 1, 2 * (quadrant % 2) - 1
        here = self.lattice[row, column]
        ways = [self.lattice[row + up, column] - here, self.lattice[row, column + right] - here]
        at = here + _SETBACK * sum(way / np.linalg.norm(way) for way in ways)
        block = (row - (up < 0), column - (right < 0))
        return Landmark(*place, (float(at[0]), float(at[1])), block)

    def _open_place(self, rng: np.random.Generator, at: np.ndarray) -> Landmark:
        return Landmark(*self._name(rng), (float(at[0]), float(at[1])))

    def _name(self, rng: np.random.Generator) -> tuple[str, str]:
        kind = KINDS[rng.integers(len(KINDS))]
        return f"{OWNERS[rng.integers(len(OWNERS))]} {kind}", kind

    def _beside_street(self, a: int, b: int) -> np.ndarray:
        way = self._direction(a, b)
        right = np.array([way[1], -way[0]])
        return (self.nodes[a] + self.nodes[b]) / 2 + right * self.style.street / 2

    def _direction(self, a: int, b: int) -> np.ndarray:
        way = self.nodes[b] - self.nodes[a]
        return way / np.linalg.norm(way)

    def _walk(self, rng: np.random.Generator, legs: int) -> list[int] | None:
        """Return the nodes of a walk of so many streets; None if it met one of them twice."""
        walk = [int(rng.integers(len(self.nodes)))]
        walk.append(self._choose(rng, self.neighbours[walk[0]]))
        while len(walk) <= legs:
            before, here = walk[-2:]
            ahead = 2 * here - before  # straight on in the lattice, if it is a neighbour
            free = [node for node in self.neighbours[here] if node not in walk]
            if not free:
                return None
            turns = [node for node in free if node != ahead]
            if ahead in free and (not turns or rng.random() < _STRAIGHT_SHARE):
                walk.append(ahead)
            else:
                walk.append(self._choose(rng, turns))
        return walk

    def _choose(self, rng: np.random.Generator, nodes: list[int]) -> int:
        return nodes[rng.integers(len(nodes))]

    def _to_route(self, walk: list[int], rng: np.random.Generator, name: str) -> Route:
        """Return the route from somewhere on the first street to the place in the middle of the
        last.
        """
        first, last = walk[:2], walk[-2:]
        points = self.points_between(*first)
        start = points[rng.integers(len(points) // 3, len(points) - len(points) // 3)]
        ends = (last[0], last[1]) if rng.random() < 0.5 else (last[1], last[0])
        goal = self.fronts[ends]
        middle = self.points_between(*last)
        way = [start, *(self.nodes[node] for node in walk[1:-1]), middle[len(middle) // 2]]
        places = [self.to_place(xy) for xy in way]
        headings = [float(round(heading(*leg)) % 360) for leg in pairwise(places)]
        milestones, landmarks = [], []
        for i, node in enumerate(walk[1:-1]):
            landmark = self.corners[node]
            sight = None
            if landmark is not None:
                where = side(headings[i], _bearing(way[i + 1], landmark.at))
                sight = landmark_sight(landmark.name, where)
            milestones.append(Milestone(places[i + 1], sight, headings[i], compass(headings[i])))
            landmarks.append(None if landmark is None else self.to_place(landmark.at))
        where = side(headings[-1], _bearing(way[-1], goal.at))
        sight = destination_sight(goal.name, where)
        milestones.append(Milestone(places[-1], sight, headings[-1], compass(headings[-1])))
        return Route(
            name,
            places[0],
            float(rng.integers(1, 360)),
            tuple(milestones),
            f"{self.name} {first[0]}-{first[1]}",
            goal.name,
            (*landmarks, self.to_place(goal.at)),
        )


@lru_cache(maxsize=16)
def city_of(name: str, seed: int = 0) -> City:
    """Return a city, kept for the environments that share it. Raises InputError for an unknown
    name.
    """
    return City(name, seed)


def _bearing(a: Sequence[float], b: Sequence[float]) -> float:
    return math.degrees(math.atan2(b[0] - a[0], b[1] - a[1])) % 360
