"""Where episodes take place: routes by number, and panoramas on the way, from files or a city."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from gym_dialogue.errors import InputError, NothingToPlayError
from gym_dialogue.split import Split, belongs
from gym_virl.city import City, city_of
from gym_virl.geo import Place
from gym_virl.panoramas import PanoramaFiles, Panoramas
from gym_virl.routes import Route, read_routes
from gym_virl.scenery import city_panoramas, panorama_width
from gym_virl.streetview import Panorama

REACH = 20.0  # metres within which a position has a panorama
_MAX_DRAWS = 10_000


@dataclass(frozen=True)
class World:
    """Routes through one place. `panoramas` is None where none are known, or wanted."""

    routes: Sequence[Route]
    panoramas: Panoramas | None = None

    def nearest(self, place: Place) -> Place | None:
        """Return the nearest place that has a panorama, None if there is none within 20 m."""
        if self.panoramas is None:
            return None
        number = self.panoramas.nearest.find(place, REACH)
        return None if number is None else self.panoramas.nearest.places[number]

    def panorama_at(self, place: Place) -> Panorama | None:
        """Return the panorama nearest to a place, None if there is none within 20 m. Raises
        InputError for one that cannot be read.
        """
        if self.panoramas is None:
            return None
        number = self.panoramas.nearest.find(place, REACH)
        return None if number is None else self.panoramas.load(number)


class CityRoutes(Sequence[Route]):
    """The first so many routes of a city, made when they are asked for. Their text is ASCII."""

    def __init__(self, city: City, count: int, max_legs: int):
        self.city, self.num_routes, self.max_legs = city, count, max_legs

    def __len__(self) -> int:
        return self.num_routes

    def __getitem__(self, number: int) -> Route:  # type: ignore[override]  # no slices
        if not 0 <= number < self.num_routes:
            raise IndexError(number)
        return _route_of(self.city.name, self.city.seed, number, self.max_legs)


@lru_cache(maxsize=16384)
def _route_of(city: str, seed: int, number: int, max_legs: int) -> Route:
    return city_of(city, seed).route(number, max_legs)


def city_world(name: str, seed: int, count: int, max_legs: int, side: int | None) -> World:
    """Return the world of a procedural city, its routes of 2 to `max_legs` legs; with panoramas for
    views of `side` pixels, or without if that is None.
    """
    routes = CityRoutes(city_of(name, seed), count, max_legs)
    panoramas = None if side is None else city_panoramas(name, seed, panorama_width(side))
    return World(routes, panoramas)


def file_world(routes: str, directory: str | None, table: str | None) -> World:
    """Return the world of released data, or of data in its form; kept until one of its files
    changes.
    """
    return _file_world(routes, directory, table, (_version(routes), _version(table)))


def _version(file: str | None) -> tuple[int, int] | None:
    """Return what tells one content of a file from the next; None where there is no file."""
    try:
        status = None if file is None else os.stat(file)
    except OSError:  # reading it says so
        return None
    return None if status is None else (status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _file_world(routes: str, directory: str | None, table: str | None, versions: Any) -> World:
    if directory is None and table is None:
        return World(read_routes(routes))
    if directory is None or table is None:
        raise InputError(
            "panorama_dir and gps_to_pano_path: one is of no use without the other; give both"
        )
    return World(read_routes(routes), PanoramaFiles(Path(directory), Path(table)))


class Atlas:
    """The routes of several worlds, numbered through."""

    def __init__(self, worlds: Sequence[World]):
        self.worlds = worlds
        self.ends = np.cumsum([len(world.routes) for world in worlds])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, number: int) -> tuple[World, Route]:
        """Return (world, route) of a number. Raises InputError for one out of range."""
        if not 0 <= number < len(self):
            raise InputError(f"route_idx={number}: must be from 0 to {len(self) - 1}")
        at = int(np.searchsorted(self.ends, number, side="right"))
        world = self.worlds[at]
        return world, world.routes[number - (int(self.ends[at - 1]) if at else 0)]

    def foreign_characters(self, known: str) -> set[str]:
        """Return characters in the texts of routes from files that are not `known` ones."""
        texts = {
            milestone.sight or ""
            for world in self.worlds
            if not isinstance(world.routes, CityRoutes)
            for route in world.routes
            for milestone in route.milestones
        }
        return set("".join(texts)) - set(known)

    def numbers(self, split: Split) -> list[int]:
        """Return the numbers of a split's routes. Raises NothingToPlayError if there are none."""
        numbers = range(len(self))
        chosen = [number for number in numbers if belongs(self[number][1].is_heldout, split)]
        if not chosen:
            raise self._has_none(split)
        return chosen

    def draw(self, rng: np.random.Generator, split: Split) -> int:
        """Return the number of a random route of a split. Raises NothingToPlayError if it seems to
        have none.
        """
        for _ in range(_MAX_DRAWS):
            number = int(rng.integers(len(self)))
            if belongs(self[number][1].is_heldout, split):
                return number
        raise self._has_none(split)

    def _has_none(self, split: Split) -> NothingToPlayError:
        of_it = {"train": "for training", "heldout": "held out", "all": "there"}[split]
        return NothingToPlayError(f"none of {len(self)} routes is {of_it}")
