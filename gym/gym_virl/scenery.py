"""What the procedural city looks like: panoramas from its streets, drawn by casting rays.

Houses are walls along the blocks, of one height per lot, with windows; places with names have a
front of their own kind, with their name on it; the ground is a map of roads, pavements, crossings.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gym_virl.city import City, Landmark, city_of
from gym_virl.geo import NearestPlace
from gym_virl.panoramas import decode_image, encode_image, kept
from gym_virl.streetview import Panorama

Color = tuple[int, int, int]

EYE = 2.5  # metres above the ground
_FRONT = (14.0, 9.0)  # width and height of a place's front, metres
_SIGHT_RANGE = 320.0  # metres that houses and ground are drawn to
_LAYERS = 4  # houses behind one another that are drawn, where those behind are taller
_HAZE = 420.0  # metres over which colours fade into the sky by 1 / e
_GROUND_CELL = 0.5  # metres
_LOT_STREAM, _CAR_STREAM = 0x107, 0xCA2
_GLASS = np.array([58.0, 70.0, 86.0])
_GROUND_FLOOR = 3.6  # metres

_ROAD, _PAVEMENT, _PAINT, _BLOCK = range(4)  # classes of ground


@dataclass(frozen=True)
class _Walls:
    """The fronts of all blocks: n walls from `start` along `way`, anticlockwise round a block."""

    start: np.ndarray  # (n, 2)
    way: np.ndarray  # (n, 2), as long as the wall
    length: np.ndarray  # (n,)
    light: np.ndarray  # (n,) by how much the sun brightens it
    first_lot: np.ndarray  # (n,) index into the lots
    num_lots: np.ndarray  # (n,)
    lot_heights: np.ndarray  # (lots,) metres
    lot_colors: np.ndarray  # (lots, 3)
    front: np.ndarray  # (n, 3) number of the place at the start, middle and end; -1 for none


class Scenery:
    """All that is drawn of a city."""

    def __init__(self, city: City):
        self.city = city
        self.places: list[Landmark] = []
        self.walls = self._build()
        kinds = {place.name: place.kind for place in self.places}
        self.fronts = np.stack([front_of(name, kind) for name, kind in kinds.items()])
        numbers = {name: number for number, name in enumerate(kinds)}
        self.front_numbers = np.array([numbers[place.name] for place in self.places])
        self.ground, self._ground_origin = self._lay_ground()

    def panorama(self, at: np.ndarray, rotation: float, width: int) -> np.ndarray:
        """Return (width / 2, width, 3) uint8: the view all around from (x, y) metres, with the
        heading `rotation` in the middle column.
        """
        height, style = width // 2, self.city.style
        headings = np.radians(rotation + ((np.arange(width) + 0.5) / width - 0.5) * 360)
        rays = np.stack([np.sin(headings), np.cos(headings)], axis=1)
        slopes = np.tan(np.radians(90 - (np.arange(height) + 0.5) * 180 / height))
        haze = np.array(style.sky[1], dtype=np.float32)
        # Sky: from its upper colour to that at the horizon.
        up = np.clip((np.arange(height) + 0.5) / (height / 2), 0, 1)[:, None]
        sky = np.array(style.sky[0]) * (1 - up) + haze * up
        image = np.repeat(sky[:, None], width, axis=1).astype(np.float32)
        self._draw_ground(image, at, rays, slopes, haze)
        self._draw_walls(image, at, rays, slopes, haze)
        image *= np.array(style.light, dtype=np.float32)
        return np.clip(image, 0, 255, out=image).astype(np.uint8)

    def _draw_ground(self, image, at, rays, slopes, haze):
        style = self.city.style
        rows = np.flatnonzero(slopes < -EYE / _SIGHT_RANGE)
        far = -EYE / slopes[rows]
        cells = (at + far[:, None, None] * rays - self._ground_origin) / _GROUND_CELL
        x, y = np.moveaxis(cells.astype(np.int32), -1, 0)
        np.clip(x, 0, self.ground.shape[1] - 1, out=x)
        np.clip(y, 0, self.ground.shape[0] - 1, out=y)
        palette = np.array(
            [style.road, style.pavement, (235, 235, 228), style.pavement], dtype=np.float32
        )
        fade = np.exp(-far / _HAZE)[:, None, None].astype(np.float32)
        image[rows] = palette[self.ground[y, x]] * fade + haze * (1 - fade)

    def _draw_walls(self, image, at, rays, slopes, haze):
        height, width, _ = image.shape
        walls = self.walls
        near = np.flatnonzero(
            np.linalg.norm(walls.start + walls.way / 2 - at, axis=1) < _SIGHT_RANGE
        )
        offset, way = walls.start[near] - at, walls.way[near]
        # Where ray t and wall s meet: at + t ray = start + s way.
        across = rays[:, :1] * way[:, 1] - rays[:, 1:] * way[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (offset[:, 0] * way[:, 1] - offset[:, 1] * way[:, 0]) / across
            s = (offset[:, 0] * rays[:, 1:] - offset[:, 1] * rays[:, :1]) / across
        # Of a block only the sides that face the eye are seen.
        met = (across < 0) & (t > 0.1) & (s >= 0) & (s <= 1)
        t = np.where(met, t, np.inf)
        layers = min(_LAYERS, t.shape[1])
        order = np.argpartition(t, layers - 1, axis=1)[:, :layers]
        t = np.take_along_axis(t, order, axis=1)
        nearest = np.argsort(t, axis=1)
        order = np.take_along_axis(order, nearest, axis=1)
        t = np.take_along_axis(t, nearest, axis=1).astype(np.float32)
        wall = near[order]  # (width, layers)
        share = np.take_along_axis(s, order, axis=1)
        is_there = np.isfinite(t)
        t = np.where(is_there, t, 1e6)
        share = np.where(is_there, share, 0)
        u = (share * walls.length[wall]).astype(np.float32)
        lot = walls.first_lot[wall] + np.minimum(
            (share * walls.num_lots[wall]).astype(np.int64), walls.num_lots[wall] - 1
        )
        tops = np.where(is_there, (walls.lot_heights[lot] - EYE) / t, -np.inf)
        seen = np.full((height, width), -1, np.int8)
        for layer in reversed(range(layers)):
            covers = (slopes[:, None] < tops[:, layer]) & (slopes[:, None] > -EYE / t[:, layer])
            covers &= is_there[:, layer]
            seen[covers] = layer
        rows, columns = np.nonzero(seen >= 0)
        if not len(rows):
            return
        picked = columns, seen[rows, columns].astype(np.int64)
        far = t[picked]
        z = EYE + far * slopes[rows].astype(np.float32)
        colors = self._wall_colors(wall[picked], lot[picked], u[picked], z)
        fade = np.exp(-far / _HAZE)[:, None]
        image[rows, columns] = colors * fade + haze * (1 - fade)

    def _wall_colors(self, wall, lot, u, z):
        """Return (n, 3) float32 of points on walls: u metres along, z metres up."""
        walls, (cell_w, cell_h) = self.walls, self.city.style.windows
        colors = walls.lot_colors[lot]
        column, row = u / cell_w, z / cell_h
        in_x, in_y = column - np.floor(column), row - np.floor(row)
        is_window = (in_x > 0.22) & (in_x < 0.78) & (in_y > 0.25) & (in_y < 0.8)
        is_window &= z > _GROUND_FLOOR
        colors[is_window] = _GLASS
        colors[z < _GROUND_FLOOR] *= 0.72
        length = walls.length[wall]
        front_w, front_h = _FRONT
        slot = np.where(u < front_w, 0, np.where(u > length - front_w, 2, 1))
        from_start = np.choose(slot, [u, u - (length - front_w) / 2, u - (length - front_w)])
        place = walls.front[wall, slot]
        is_front = (place >= 0) & (z < front_h) & (from_start >= 0) & (from_start < front_w)
        where = np.flatnonzero(is_front)
        _, rows, columns, _ = self.fronts.shape
        y = ((1 - z[where] / front_h) * rows).astype(np.int32).clip(0, rows - 1)
        x = (from_start[where] / front_w * columns).astype(np.int32).clip(0, columns - 1)
        colors *= walls.light[wall][:, None]
        colors[where] = self.fronts[self.front_numbers[place[where]], y, x]
        return colors

    def _build(self) -> _Walls:
        city, style = self.city, self.city.style
        rng = np.random.default_rng([_LOT_STREAM, city.seed, *map(ord, city.name)])
        rows, columns, _ = city.lattice.shape
        start, way, front = [], [], []
        corner_places = self._corner_places()
        for row in range(rows - 1):
            for column in range(columns - 1):
                # Anticlockwise, from the lower left.
                ring = [(row, column), (row, column + 1), (row + 1, column + 1), (row + 1, column)]
                corners = _inset(np.array([city.lattice[at] for at in ring]), style.street / 2)
                for i in range(4):
                    start.append(corners[i])
                    way.append(corners[(i + 1) % 4] - corners[i])
                    here, after = ring[i], ring[(i + 1) % 4]
                    front.append(
                        (
                            corner_places.get((here, (row, column)), -1),
                            self._street_place(here, after),
                            corner_places.get((after, (row, column)), -1),
                        )
                    )
        ways = np.array(way)
        length = np.linalg.norm(ways, axis=1)
        num_lots = np.maximum(1, np.round(length / style.lot)).astype(np.int64)
        first_lot = np.concatenate([[0], np.cumsum(num_lots)[:-1]])
        total = int(num_lots.sum())
        lot_heights = rng.uniform(*style.heights, total).astype(np.float32)
        base = np.array(style.walls, dtype=np.float32)[rng.integers(len(style.walls), size=total)]
        lot_colors = base * rng.uniform(0.85, 1.12, (total, 1)).astype(np.float32)
        outward = np.stack([ways[:, 1], -ways[:, 0]], axis=1) / length[:, None]
        sun = np.array([math.sin(math.radians(style.sun)), math.cos(math.radians(style.sun))])
        light = (0.82 + 0.2 * (outward @ sun)).astype(np.float32)
        return _Walls(
            np.array(start),
            ways,
            length,
            light,
            first_lot,
            num_lots,
            lot_heights,
            lot_colors,
            np.array(front),
        )

    def _corner_places(self) -> dict[tuple[tuple[int, int], tuple[int, int] | None], int]:
        """Return numbers of the places at corners, by (node in the lattice, block)."""
        numbers = {}
        for node, landmark in enumerate(self.city.corners):
            if landmark is not None:
                numbers[self.city.place_in_lattice(node), landmark.block] = len(self.places)
                self.places.append(landmark)
        return numbers

    def _street_place(self, here: tuple[int, int], after: tuple[int, int]) -> int:
        """Return the number of the place along a block's side; -1 at the rim, without a street."""
        # Walking with the block on the right is walking clockwise round it.
        a, b = self.city.node_at(*after), self.city.node_at(*here)
        if a is None or b is None:
            return -1
        self.places.append(self.city.fronts[a, b])
        return len(self.places) - 1

    def _lay_ground(self) -> tuple[np.ndarray, np.ndarray]:
        """Return classes of ground (y, x) in cells of 0.5 m, and where its first cell lies."""
        city, style = self.city, self.city.style
        lattice = city.lattice
        origin = lattice.reshape(-1, 2).min(axis=0) - 10
        size = (lattice.reshape(-1, 2).max(axis=0) + 10 - origin) / _GROUND_CELL
        image = Image.new("L", (int(size[0]), int(size[1])), _BLOCK)
        draw = ImageDraw.Draw(image)

        def line(a, b, width, kind):
            ends = [tuple((p - origin) / _GROUND_CELL) for p in (a, b)]
            draw.line(ends, fill=kind, width=max(1, round(width / _GROUND_CELL)))

        ways = [
            (lattice[r, c], lattice[r + dr, c + dc])
            for r in range(lattice.shape[0])
            for c in range(lattice.shape[1])
            for dr, dc in ((0, 1), (1, 0))
            if r + dr < lattice.shape[0] and c + dc < lattice.shape[1]
        ]
        road = style.street - 7
        for a, b in ways:
            line(a, b, style.street, _PAVEMENT)
        for a, b in ways:
            line(a, b, road, _ROAD)
            for end in (a, b):
                reach = road / 2 / _GROUND_CELL
                x, y = (end - origin) / _GROUND_CELL
                draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=_ROAD)
        for a, b in ways:
            length = np.linalg.norm(b - a)
            along = (b - a) / length
            aside = np.array([-along[1], along[0]])
            gap = style.street / 2 + 3
            for at in np.arange(gap + 3, length - gap - 5, 6.0):  # the dashes in the middle
                line(a + along * at, a + along * (at + 2.5), 0.5, _PAINT)
            for at in (gap - 1, length - gap + 1):  # the stripes of crossings
                for shift in np.arange(-road / 2 + 0.8, road / 2, 1.8):
                    middle = a + along * at + aside * shift
                    line(middle - along * 1.5, middle + along * 1.5, 0.9, _PAINT)
        return np.asarray(image), origin


class CityPanoramas:
    """The panoramas of a city: about every 10 m on its streets, drawn when first asked for."""

    def __init__(self, city: City, width: int):
        self.city, self.width = city, width
        xy = [city.nodes, *(city.points_between(a, b) for a, b in city.streets)]
        self.xy = np.concatenate(xy)
        self.nearest = NearestPlace([city.to_place(point) for point in self.xy])
        rng = np.random.default_rng([_CAR_STREAM, city.seed, *map(ord, city.name)])
        self.rotations = rng.integers(0, 360, len(self.xy)).astype(float)
        self.ids = [f"{city.name}_{city.seed}_{number:05d}" for number in range(len(self.xy))]
        self.load = kept(self._draw)

    def encoded(self, number: int) -> bytes:
        """Return a panorama as a JPEG file. `load` decodes it too, so files give the same."""
        scenery = _scenery_of(self.city.name, self.city.seed)
        return encode_image(scenery.panorama(self.xy[number], self.rotations[number], self.width))

    def _draw(self, number: int) -> Panorama:
        return Panorama(decode_image(self.encoded(number)), self.rotations[number])


@lru_cache(maxsize=16)
def city_panoramas(name: str, seed: int, width: int) -> CityPanoramas:
    """Return the panoramas of a city, kept for the environments that share them."""
    return CityPanoramas(city_of(name, seed), width)


@lru_cache(maxsize=16)
def _scenery_of(name: str, seed: int) -> Scenery:
    return Scenery(city_of(name, seed))


def panorama_width(side: int) -> int:
    """Return the width of panoramas that views of `side` pixels are cut from: about as sharp as
    those.
    """
    width = 256
    while width < 4 * side and width < 2048:
        width *= 2
    return width


def _inset(corners: np.ndarray, by: float) -> np.ndarray:
    """Return (4, 2) corners of an anticlockwise quadrilateral, moved inwards from every side."""
    ways = np.roll(corners, -1, axis=0) - corners
    inwards = np.stack([-ways[:, 1], ways[:, 0]], axis=1) / np.linalg.norm(ways, axis=1)[:, None]
    moved = corners + inwards * by
    points = []
    for i in range(4):  # where the moved sides before and after the corner meet
        p, d, q, e = moved[i - 1], ways[i - 1], moved[i], ways[i]
        t = ((q[0] - p[0]) * e[1] - (q[1] - p[1]) * e[0]) / (d[0] * e[1] - d[1] * e[0])
        points.append(p + t * d)
    return np.array(points)


@lru_cache(maxsize=4096)
def front_of(name: str, kind: str) -> np.ndarray:
    """Return (H, W, 3) uint8: the front of a place, with the motif of its kind and its name on a
    sign.
    """
    wall, sign, draw_motif = _FRONTS[kind]
    w, h = 168, 108
    image = Image.new("RGB", (w, h), wall)
    draw = ImageDraw.Draw(image)
    draw_motif(draw, w, h, sign)
    draw.rectangle((6, 4, w - 7, 30), fill=sign)
    size = 22
    while size > 8 and draw.textlength(name, font=_font(size)) > w - 20:
        size -= 1
    draw.text((w / 2, 17), name, fill=wall, font=_font(size), anchor="mm")
    draw.rectangle((w * 0.42, h * 0.66, w * 0.58, h), fill=(40, 34, 30))
    return np.asarray(image)


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # Pillow's own


def _columns(draw, w, h, color):
    for x in range(10, w, 26):
        draw.rectangle((x, 36, x + 10, h), fill=color)


def _arches(draw, w, h, color):
    for x in range(8, w - 30, 40):
        draw.pieslice((x, 44, x + 32, 96), 180, 360, fill=color)
        draw.rectangle((x, 70, x + 32, 92), fill=color)


def _books(draw, w, h, color):
    for number, x in enumerate(range(6, w - 8, 15)):
        draw.rectangle((x, 44 + number * 7 % 17, x + 6, 100), fill=color)


def _awning(draw, w, h, color):
    for x in range(0, w, 28):
        draw.rectangle((x, 36, x + 13, 66), fill=color)


def _lights(draw, w, h, color):
    for y in range(40, h - 6, 16):
        for x in range(8, w - 6, 16):
            draw.ellipse((x, y, x + 7, y + 7), fill=color)


def _star(draw, w, h, color):
    x, y = w * 0.22, h * 0.62
    for centre in (x, w - x):
        points = [
            (
                centre + r * math.sin(math.pi * i / 5),
                y - r * math.cos(math.pi * i / 5),
            )
            for i, r in enumerate([26, 11] * 5)
        ]
        draw.polygon(points, fill=color)


def _drums(draw, w, h, color):
    for x in (18, 52, 106, 140):
        draw.ellipse((x - 16, 46, x + 16, 78), outline=color, width=6)


def _crates(draw, w, h, color):
    for number, x in enumerate(range(4, w - 20, 27)):
        draw.rectangle((x, 62 + number % 2 * 14, x + 20, h), fill=color)


def _pediment(draw, w, h, color):
    draw.polygon([(4, 66), (w / 2, 34), (w - 4, 66)], fill=color)
    draw.rectangle((4, h - 14, w - 4, h), fill=color)


def _cross(draw, w, h, color):
    for centre in (w * 0.22, w * 0.78):
        draw.rectangle((centre - 7, 42, centre + 7, 98), fill=color)
        draw.rectangle((centre - 26, 62, centre + 26, 78), fill=color)


def _panes(draw, w, h, color):
    for x in range(8, w - 20, 32):
        for y in (40, 74):
            draw.rectangle((x, y, x + 22, y + 26), outline=color, width=5)


def _curtain(draw, w, h, color):
    draw.polygon([(0, 36), (w * 0.4, 36), (0, h)], fill=color)
    draw.polygon([(w, 36), (w * 0.6, 36), (w, h)], fill=color)


# What each kind is painted like: colour of the wall, of the sign, and what is drawn between.
_FRONTS: dict[str, tuple[Color, Color, Callable[..., None]]] = {
    "Bank": ((226, 220, 200), (120, 104, 60), _columns),
    "Bakery": ((240, 176, 84), (122, 62, 20), _arches),
    "Bookshop": ((24, 52, 164), (240, 220, 150), _books),
    "Cafe": ((250, 244, 236), (196, 30, 44), _awning),
    "Cinema": ((28, 24, 34), (252, 208, 60), _lights),
    "Hotel": ((110, 44, 130), (244, 226, 250), _star),
    "Laundry": ((120, 206, 232), (20, 70, 110), _drums),
    "Market": ((34, 132, 58), (248, 246, 120), _crates),
    "Museum": ((206, 226, 220), (28, 108, 112), _pediment),
    "Pharmacy": ((252, 252, 252), (10, 150, 70), _cross),
    "School": ((246, 214, 40), (160, 32, 24), _panes),
    "Theatre": ((170, 20, 40), (246, 196, 120), _curtain),
}
