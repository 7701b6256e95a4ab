"""Writes a procedural city in the form of the released data: routes, panoramas and their table.

`python -m gym_virl.export --city=london --num_routes=20 --out=london` leaves
london/ with route_infos.json, gps_pano_mapping.pkl and street_views/, which an environment
with `route_info_path`, `gps_to_pano_path` and `panorama_dir` plays as the same episodes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from gym_command.command import run_command
from gym_dialogue.errors import InputError
from gym_virl.city import city_of
from gym_virl.geo import NearestPlace, between, distance
from gym_virl.panoramas import from_north, write_table
from gym_virl.prompts import OWN
from gym_virl.rail import lay_rail
from gym_virl.routes import Route, write_routes
from gym_virl.scenery import city_panoramas, panorama_width
from gym_virl.world import REACH

_STEP = 2.0  # metres


@dataclass
class Config:
    """Write a procedural city in the form of the released data."""

    out: str = "city"
    """The directory to make."""
    city: str = "new_york"
    """A name of gym_virl.city.STYLES."""
    city_seed: int = 0
    """Which city of that name."""
    num_routes: int = 100
    """Routes to write."""
    resolution: int = 320
    """Pixels of the side of a view that the panoramas should be good for."""
    panoramas: Literal["all", "routes", "none"] = "all"
    """Which panoramas to draw, which takes up to a second each: those that the routes come by, say.
    The table has all of them."""


def _passed(route: Route, nearest: NearestPlace) -> set[int]:
    """Return numbers of the places that are the nearest to somewhere on a route."""
    way = [route.start, *(milestone.place for milestone in route.milestones)]
    numbers = set()
    for a, b in pairwise(way):
        steps = max(1, round(distance(a, b) / _STEP))
        numbers |= {nearest.find(between(a, b, i / steps), REACH) for i in range(steps + 1)}
    return {number for number in numbers if number is not None}


def main(config: Config) -> None:
    """Run the command."""
    if config.num_routes < 1 or config.resolution < 1 or config.city_seed < 0:
        raise InputError(
            f"num_routes={config.num_routes}, resolution={config.resolution}, "
            f"city_seed={config.city_seed}: must be at least 1, 1 and 0"
        )
    city = city_of(config.city, config.city_seed)
    out = Path(config.out)
    views = out / "street_views"
    try:
        views.mkdir(parents=True, exist_ok=True)
        routes = [city.route(number) for number in range(config.num_routes)]
        texts = []
        for route in routes:
            rail = lay_rail(route, np.random.default_rng(0))
            texts.append(OWN.instruction(OWN.instruction_steps(rail.stretches)).strip())
        write_routes(out / "route_infos.json", routes, texts)
        width = panorama_width(config.resolution)
        panoramas = city_panoramas(config.city, config.city_seed, width)
        table = dict(zip(panoramas.nearest.places, panoramas.ids, strict=True))
        write_table(out / "gps_pano_mapping.pkl", table)
        wanted = list(range(len(table))) if config.panoramas == "all" else []
        if config.panoramas == "routes":
            wanted = sorted({number for r in routes for number in _passed(r, panoramas.nearest)})
        for number in tqdm(wanted, unit="panorama", mininterval=1, disable=not wanted):
            name = panoramas.ids[number]
            (views / f"{name}.jpg").write_bytes(panoramas.encoded(number))
            about = {"rotation": from_north(panoramas.rotations[number])}
            (views / f"{name}.metadata.json").write_text(json.dumps(about) + "\n")
    except OSError as error:
        raise InputError(f"out {out}: cannot be written: {error.strerror}") from error
    print(f"{out}: {len(routes)} routes, {len(table)} panoramas of {width} x {width // 2} pixels")


if __name__ == "__main__":
    run_command(main, Config)
