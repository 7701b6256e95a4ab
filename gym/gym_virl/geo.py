"""Places on the ground: distances, headings and what they are called, and the nearest of many.

A place is (latitude, longitude) in degrees; a heading is in degrees clockwise from north.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.spatial import KDTree

Place = tuple[float, float]

EARTH_RADIUS = 6_371_000.0  # metres, of the sphere
COMPASS = (
    "north",
    "northeast",
    "east",
    "southeast",
    "south",
    "southwest",
    "west",
    "northwest",
)
RELATIVE = ("left", "right", "slightly left", "slightly right")
SIDES = (
    "front",
    "right front",
    "right",
    "right behind",
    "behind",
    "left behind",
    "left",
    "left front",
)


def is_place(value: object) -> bool:
    """Return whether a value is a latitude from -90 to 90 and a longitude from -180 to 180."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
        and abs(value[0]) <= 90
        and abs(value[1]) <= 180
    )


def is_heading(value: object) -> bool:
    """Return whether a value is a number of degrees from -360 to 360."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return -360 <= value <= 360


def distance(a: Place, b: Place) -> float:
    """Return metres between two places on the sphere (haversine formula)."""
    lat_a, lat_b = math.radians(a[0]), math.radians(b[0])
    half_lat = math.sin((lat_b - lat_a) / 2)
    half_lng = math.sin(math.radians(b[1] - a[1]) / 2)
    square = half_lat**2 + math.cos(lat_a) * math.cos(lat_b) * half_lng**2
    return 2 * EARTH_RADIUS * math.asin(min(1.0, math.sqrt(square)))


def heading(a: Place, b: Place) -> float:
    """Return the heading in [0, 360) at which one leaves `a` for `b` on a great circle."""
    lat_a, lat_b = math.radians(a[0]), math.radians(b[0])
    lng = math.radians(b[1] - a[1])
    east = math.sin(lng) * math.cos(lat_b)
    north = math.cos(lat_a) * math.sin(lat_b) - math.sin(lat_a) * math.cos(lat_b) * math.cos(lng)
    return math.degrees(math.atan2(east, north)) % 360


def between(a: Place, b: Place, share: float) -> Place:
    """Return the place at a share of the way from `a` to `b`, on a straight line in degrees, across
    the 180th meridian where that is the shorter way.
    """
    lng = wrap(b[1] - a[1])
    return a[0] + share * (b[0] - a[0]), wrap(a[1] + share * lng)


def wrap(angle: float) -> float:
    """Return an angle as the same one in (-180, 180]."""
    return 180 - (180 - angle) % 360


def compass(angle: float) -> str:
    """Return the nearest of the eight compass names."""
    return COMPASS[round(angle / 45) % 8]


def relative(before: float, after: float) -> str:
    """Return what the turn from one heading to another is called: left beyond 45 degrees to the
    left, right beyond 45 to the right, else slightly left (also for no turn at all) or slightly
    right.
    """
    turn = wrap(after - before)
    if turn < -45:
        return "left"
    if turn > 45:
        return "right"
    return "slightly left" if turn <= 0 else "slightly right"


def side(facing: float, towards: float) -> str:
    """Return on which of eight sides of one who is `facing` a heading something stands."""
    return SIDES[round((towards - facing) / 45) % 8]


class NearestPlace:
    """Finds the nearest of many places, by a k-d tree of points on the unit sphere."""

    def __init__(self, places: Sequence[Place]):
        self.places = list(places)
        self._tree = KDTree(_on_sphere(self.places)) if self.places else None

    def find(self, place: Place, within: float) -> int | None:
        """Return the index of the nearest place, None if there is none within so many metres."""
        if self._tree is None:
            return None
        chord = 2 * math.sin(within / (2 * EARTH_RADIUS))
        _, index = self._tree.query(_on_sphere([place])[0], distance_upper_bound=chord)
        return None if index == len(self.places) else int(index)


def _on_sphere(places: Sequence[Place]) -> np.ndarray:
    lat, lng = np.radians(np.asarray(places, dtype=float)).T
    return np.stack([np.cos(lat) * np.cos(lng), np.cos(lat) * np.sin(lng), np.sin(lat)], axis=1)
