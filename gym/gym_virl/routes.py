"""Routes as the released data has them: `route_infos.json`, read and written.

A route is a start, milestones at intersections, and a destination, the last milestone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from gym_dialogue.checks import is_integer, read_json
from gym_dialogue.errors import InputError
from gym_dialogue.split import is_held_out
from gym_virl.geo import COMPASS, SIDES, Place, compass, distance, is_heading, is_place

NO_LANDMARK = "No landmark nearby"
_SPLIT_SALT = "V-IRL-heldout-2"  # never change it: the split is fixed for all time

_LINE = re.compile(r'\s*"(\w+)"\s*:\s*(?:"(.*)"|(-?\d[^",]*))\s*,?\s*')
_HEADING = "to_next_intersection_heading"
_DEGREES = re.compile(r"\s*(?P<degrees>-?\d{1,3}(?:\.\d+)?)\b[^(]*(?:\((?P<name>.*))?")
_NAME = re.compile(r"\s*(north|south)?[\s_\u2010-\u2015-]*(east|west)?", re.IGNORECASE)
_SIGHT = re.compile(rf"(?P<name>.+) is on your (?P<side>{'|'.join(sorted(SIDES, key=len)[::-1])})")
DESTINATION = "The destination "


@dataclass(frozen=True)
class Milestone:
    """The end of a leg: an intersection on the way, or the destination.

    `sight` is what is to be seen there, such as `Union Bank is on your left front`, None where
    there is no landmark. `heading` is that of the leg, in degrees, and `direction` its name.
    """

    place: Place
    sight: str | None
    heading: float
    direction: str


@dataclass(frozen=True)
class Route:
    """A way to walk. `init_heading` is that of the agent at the start, 360 for north; 0: any, to be
    drawn.
    """

    name: str
    start: Place
    init_heading: float
    milestones: tuple[Milestone, ...]
    start_name: str = "start"
    destination: str = ""
    landmarks: tuple[Place | None, ...] = ()
    """Where the landmarks of the milestones stand, the destination's last, as far as known."""

    @property
    def walk(self) -> str:
        """Return where it goes: the places of its milestones, the destination last. Routes that
        differ in the first metres, from another start to the same first milestone, are the same
        walk.
        """
        places = (milestone.place for milestone in self.milestones)
        return ";".join(f"{lat:.6f},{lng:.6f}" for lat, lng in places)

    @property
    def is_heldout(self) -> bool:
        """Return whether its walk is one of the 10 % held out, so that none of them is walked in
        training, wherever it starts.
        """
        return is_held_out(_SPLIT_SALT, self.walk)


def read_sight(sight: str | None) -> tuple[str, str] | None:
    """Return (name of the landmark, or destination; side) of a sentence such as `X is on your
    left`.
    """
    match = _SIGHT.fullmatch(sight or "")
    return match and (match["name"].removeprefix(DESTINATION), match["side"])


def read_destination(sight: str | None) -> tuple[str, str] | None:
    """Return (name, side) of a sentence on the destination; None for one on anything else."""
    return read_sight(sight) if (sight or "").startswith(DESTINATION) else None


def landmark_sight(name: str, side: str) -> str:
    """Return what is to be seen where there is a landmark, as the released data words it."""
    return f"{name} is on your {side}"


def destination_sight(name: str, side: str) -> str:
    """Return what is to be seen at the destination, as the released data words it."""
    return landmark_sight(DESTINATION + name, side)


def name_in(sight: str | None) -> str | None:
    """Return the name in such a sentence."""
    parts = read_sight(sight)
    return parts and parts[0]


def side_in(sight: str | None) -> str | None:
    """Return the side in such a sentence."""
    parts = read_sight(sight)
    return parts and parts[1]


def read_routes(path: str | Path) -> list[Route]:
    """Return the routes of a `route_infos.json`.

    Raises InputError, naming the file, the route and the key, for a file that cannot be read or is
    cut short, a route without milestones, and places that are none. Keys that are not needed are
    ignored. The file's count is of the destinations that were tried to find these routes, so it is
    at least their number.
    """
    where = f"route_info_path {path}"
    data = read_json(path, where)
    if not (isinstance(data, list) and len(data) == 2 and isinstance(data[0], list)):
        raise InputError(f"{where}: must be a list [routes, count], with a list of routes")
    if not data[0]:
        raise InputError(f"{where}: holds no route")
    if not is_integer(data[1]) or data[1] < len(data[0]):
        raise InputError(
            f"{where}: its count is {data[1]!r}; must be at least the number of its routes, "
            f"{len(data[0])}"
        )
    return [
        _read_route(route, f"{Path(path).stem}-{i}", f"{where}, route {i}")
        for i, route in enumerate(data[0])
    ]


def _read_route(data: Any, name: str, where: str) -> Route:
    start = _get(data, "start_place", dict, where)
    results = _get(data, "route_results", dict, where)
    places = _get(results, "geocode_list", list, f"{where}, route_results")
    blocks = read_blocks(_get(data, "milestone_info", str, where))
    if not blocks or not places:
        raise InputError(f"{where}: has no milestones")
    if len(blocks) != len(places):
        raise InputError(
            f"{where}: milestone_info has {len(blocks)} blocks, but geocode_list {len(places)} "
            "places; must be one for each milestone"
        )
    for place in places:
        _check_place(place, f"{where}, geocode_list")
    way = [_place_of(start, f"{where}, start_place"), *(tuple(place) for place in places)]
    init_heading = data.get("init_heading") or 0
    if not is_heading(init_heading):
        raise InputError(f"{where}, init_heading: must be a number of degrees, from -360 to 360")
    milestones = [
        _read_milestone(block, place, f"{where}, milestone {number}")
        for number, (block, place) in enumerate(zip(blocks, way[1:], strict=True), start=1)
    ]
    destination = data.get("dest_place")
    named = destination.get("name") if isinstance(destination, dict) else None
    return Route(
        name,
        way[0],
        float(init_heading) % 360 or (360.0 if init_heading else 0.0),
        tuple(milestones),
        str(start.get("name", "start")),
        str(named or name_in(milestones[-1].sight) or "the destination"),
    )


def _read_milestone(block: dict[str, str], place: Place, where: str) -> Milestone:
    """Return a milestone from its block, which tells of the leg into it: the heading to take where
    the leg begins, and what is to be seen where it ends. (`human_heading` only repeats the leg
    before.)
    """
    text = block.get(_HEADING)
    if text is None:
        raise InputError(f'{where}: key {_HEADING} is missing; must be such as "26 (northeast)"')
    match = _DEGREES.fullmatch(text)
    if match is None:
        raise InputError(f"{where}, {_HEADING}: {text!r} does not start with a number of degrees")
    degrees = float(match["degrees"]) % 360
    name = _NAME.match(match["name"] or "")
    named = "".join(part or "" for part in name.groups()).lower() if name else ""
    sight = block.get("landmarks", "").strip().rstrip(".")
    return Milestone(
        place,
        None if not sight or sight.lower() == NO_LANDMARK.lower() else sight,
        degrees,
        named if named in COMPASS else compass(degrees),
    )


def read_blocks(text: str) -> list[dict[str, str]]:
    """Return the blocks of `milestone_info`, which look like JSON objects and are not: every line
    in braces ends in a comma, the last one too, quotes in names are not escaped, and a number may
    stand without quotes.
    """
    blocks: list[dict[str, str]] = []
    for line in text.split("\n"):  # nowhere else: a name may hold another separator of lines
        if line.strip().startswith("{"):
            blocks.append({})
        match = _LINE.fullmatch(line)
        if match and blocks:
            blocks[-1][match[1]] = match[2] if match[3] is None else match[3]
    return [block for block in blocks if block]


def write_routes(path: Path, routes: Sequence[Route], instructions: Sequence[str]) -> None:
    """Write routes, with the text of their instructions, as the released data has them."""
    data = [_to_json(route, text) for route, text in zip(routes, instructions, strict=True)]
    path.write_text(json.dumps([data, len(data)], indent=1) + "\n", encoding="utf-8")


def _to_json(route: Route, instruction: str) -> dict[str, Any]:
    way = [route.start, *(milestone.place for milestone in route.milestones)]
    lengths = [distance(a, b) for a, b in pairwise(way)]
    arrivals = [route.init_heading, *(milestone.heading for milestone in route.milestones[:-1])]
    landmarks = route.landmarks or (None,) * len(route.milestones)
    return {
        "start_place": _place_to_json(route.start_name, route.start),
        "dest_place": _place_to_json(route.destination, way[-1]),
        "route_results": {
            "geocode_list": way[1:],
            "landmark_list": [
                place and _place_to_json(name_in(milestone.sight) or "", place)
                for milestone, place in zip(route.milestones[:-1], landmarks[:-1], strict=True)
            ],
            "distance_list": [round(length) for length in lengths],
        },
        "milestone_info": "\n".join(
            _block(number, milestone, before, length)
            for number, (milestone, before, length) in enumerate(
                zip(route.milestones, arrivals, lengths, strict=True), start=1
            )
        ),
        "init_heading": route.init_heading,
        "instruction": instruction,
    }


def _block(number: int, milestone: Milestone, before: float, length: float) -> str:
    """Return the block of the leg into a milestone; `before` is the heading of the last leg."""
    fields = {
        "intersection_idx": number,
        "landmarks": milestone.sight or NO_LANDMARK,
        "distance": f"{length:.0f} meters",
        "human_heading": f"{before:g}",
        _HEADING: f"{milestone.heading:g} ({milestone.direction})",
    }
    return "\n".join(["", "{", *(f'"{key}": "{value}",' for key, value in fields.items()), "}", ""])


def _place_to_json(name: str, place: Place) -> dict[str, Any]:
    return {"name": name, "geocode": list(place), "relocated_geocode": list(place)}


def _get(data: Any, key: str, kind: type, where: str) -> Any:
    value = data.get(key) if isinstance(data, dict) else None
    if not isinstance(value, kind):
        raise InputError(f"{where}: key {key} is missing, or not of type {kind.__name__}")
    return value


def _place_of(data: dict[str, Any], where: str) -> Place:
    place: Any = data.get("relocated_geocode") or data.get("geocode")
    _check_place(place, where)
    return tuple(place)


def _check_place(place: Any, where: str) -> None:
    if not is_place(place):
        raise InputError(
            f"{where}: {place!r} is no place; must be [latitude from -90 to 90, longitude from "
            "-180 to 180]"
        )
