"""Draw hands: cards on a plain table, made with Pillow, fast enough to train on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gym_dialogue.errors import InputError

COLORS = ("mixed", "black", "red")
"""Which colours the suits of a hand may have."""
TABLES: dict[str, tuple[int, int, int]] = {
    "green": (32, 104, 66),
    "blue": (36, 70, 130),
    "brown": (112, 76, 48),
    "gray": (128, 128, 128),
    "white": (255, 255, 255),
    "released": (0x35, 0x65, 0x4D),
}
"""Name -> RGB of a table; `released` is that of the released code."""
RANDOM_TABLES = ("green", "blue", "brown", "gray", "white")
"""The tables that `random` draws from."""
LAYOUTS = ("grid", "row", "scatter")
"""How cards may lie; always in reading order."""

_BLACK_OF = {"hearts": "spades", "diamonds": "clubs"}
_RED_OF = {black: red for red, black in _BLACK_OF.items()}

_INK = {"spades": (18, 18, 22), "clubs": (18, 18, 22), "hearts": (200, 16, 32)}
_INK["diamonds"] = _INK["hearts"]
_PAPER, _EDGE = (253, 253, 251), (120, 120, 120)
_ASPECT = 5 / 7  # width of a card to its height
_FILL = 0.95  # share of its cell that a card may take, by length
_LOOSE_FILL = 0.82  # the same where cards lie askew, which takes room
_MAX_TILT = 7  # degrees
_SMALL = 150  # pixels of card height below which pips would not be told apart

_COLUMNS = {"l": 0.31, "c": 0.5, "r": 0.69}
_PIPS = {
    "A": "c50",
    "2": "c17 c83",
    "3": "c17 c50 c83",
    "4": "l17 r17 l83 r83",
    "5": "l17 r17 c50 l83 r83",
    "6": "l17 r17 l50 r50 l83 r83",
    "7": "l17 r17 c33 l50 r50 l83 r83",
    "8": "l17 r17 c33 l50 r50 c67 l83 r83",
    "9": "l17 r17 l39 r39 c50 l61 r61 l83 r83",
    "10": "l17 r17 c28 l39 r39 l61 r61 c72 l83 r83",
}
"""Rank -> column and height (percent of the card) of every pip."""


def suits_of_color(suits: Sequence[str], color: str) -> tuple[str, ...]:
    """Return the suits in a colour of COLORS: "black" turns hearts into spades and diamonds into
    clubs, "red" the other way round, "mixed" leaves all as they are. Two cards may become equal.
    """
    other = {"mixed": {}, "black": _BLACK_OF, "red": _RED_OF}[color]
    return tuple(other.get(suit, suit) for suit in suits)


def render_hand(
    ranks: Sequence[str],
    suits: Sequence[str],
    resolution: int,
    table: str = "green",
    layout: str = "grid",
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Return a hand on a table: uint8 (resolution, resolution, 3), RGB.

    `grid` has two rows, `row` one; `scatter` is the grid with positions and tilts drawn from `rng`.
    Cards never overlap. Raises KeyError for an unknown table, rank or suit, and InputError for an
    unknown layout or a scatter without `rng`.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout={layout!r}: must be one of {', '.join(LAYOUTS)}")
    rows = 1 if layout == "row" else 2
    columns = -(-len(ranks) // rows)
    width, height = resolution / columns, resolution / 2
    fill = _LOOSE_FILL if layout == "scatter" else _FILL
    size = round(fill * min(height, width / _ASPECT))
    if layout == "scatter":
        if rng is None:
            raise InputError("layout='scatter': needs rng")
        spots = rng.random((len(ranks), 2))
        tilts = rng.integers(-_MAX_TILT, _MAX_TILT + 1, len(ranks)).tolist()
        tilted = _tilted if size < _SMALL else _tilted.__wrapped__  # large ones fill the memory
        cards = zip(ranks, suits, tilts, strict=True)
        faces = [tilted(rank, suit, size, tilt) for rank, suit, tilt in cards]
    else:
        spots = np.full((len(ranks), 2), 0.5)
        faces = [_face(rank, suit, size) for rank, suit in zip(ranks, suits, strict=True)]
    image = Image.new("RGB", (resolution, resolution), TABLES[table])
    for index, (face, (across, down)) in enumerate(zip(faces, spots.tolist(), strict=True)):
        row, column = divmod(index, columns)
        in_row = min(columns, len(faces) - row * columns)
        left = (resolution - in_row * width) / 2 + column * width
        top = (resolution - rows * height) / 2 + row * height
        x = round(left + across * (width - face.width))
        y = round(top + down * (height - face.height))
        image.paste(face, (x, y), face)
    return np.array(image)


@lru_cache(maxsize=52 * (2 * _MAX_TILT + 1))
def _tilted(rank: str, suit: str, height: int, degrees: int) -> Image.Image:
    """Return a card turned anticlockwise, on a transparent ground that just holds it."""
    return _face(rank, suit, height).rotate(degrees, Image.Resampling.BICUBIC, expand=True)


@lru_cache(maxsize=4 * 52)
def _face(rank: str, suit: str, height: int) -> Image.Image:
    """Return a card, RGBA with round corners."""
    scale = max(3, -(-400 // height))  # drawn larger, then reduced: smooth edges at any size
    size = (max(1, round(height * _ASPECT)) * scale, height * scale)
    line = max(scale // 2, size[1] // 200)
    card = Image.new("RGB", size, _EDGE)
    corners = Image.new("L", size, 0)
    box, radius = (0, 0, size[0] - 1, size[1] - 1), size[1] // 16
    ImageDraw.Draw(corners).rounded_rectangle(box, radius, 255)
    ImageDraw.Draw(card).rounded_rectangle(box, radius, _PAPER, _EDGE, line)
    (_draw_small if height < _SMALL else _draw_large)(card, rank, suit)
    card.putalpha(corners)
    return card.reduce(scale)


def _draw_small(card: Image.Image, rank: str, suit: str) -> None:
    _draw_rank(card, rank, suit, (0.5, 0.29), height=0.42, width=0.86, bold=8)
    _draw_suit(card, suit, (0.5, 0.755), 0.40)


def _draw_large(card: Image.Image, rank: str, suit: str) -> None:
    for _ in range(2):  # once for either end of the card
        _draw_rank(card, rank, suit, (0.105, 0.083), height=0.095, width=0.15, bold=4)
        _draw_suit(card, suit, (0.105, 0.182), 0.075)
        if rank not in _PIPS:
            _draw_suit(card, suit, (0.315, 0.225), 0.11)
        card.paste(card.transpose(Image.Transpose.ROTATE_180))
    if rank in _PIPS:
        size = 0.36 if rank == "A" else 0.15
        for pip in _PIPS[rank].split():
            y = int(pip[1:]) / 100
            _draw_suit(card, suit, (_COLUMNS[pip[0]], y), size, is_flipped=y > 0.5)
        return
    width, height = card.size
    frame = (0.2 * width, 0.14 * height, 0.8 * width, 0.86 * height)
    ImageDraw.Draw(card).rectangle(frame, outline=_INK[suit], width=height // 120)
    _draw_rank(card, rank, suit, (0.5, 0.5), height=0.32, width=0.5, bold=4)


def _draw_rank(
    card: Image.Image,
    rank: str,
    suit: str,
    centre: tuple[float, float],
    height: float,
    width: float,
    bold: int,
) -> None:
    """Draw a rank, `height` of the card high and at most `width` of the card wide."""
    letters = _letters(rank, bold)
    high = round(height * card.height)
    wide = round(min(width * card.width, letters.width * high / letters.height))
    mask = letters.resize((wide, high), Image.Resampling.BILINEAR)
    x, y = round(centre[0] * card.width - wide / 2), round(centre[1] * card.height - high / 2)
    card.paste(_INK[suit], (x, y), mask)


@lru_cache(maxsize=64)
def _letters(rank: str, bold: int) -> Image.Image:
    """Return a rank as a mask without margins, its strokes `bold` pixels thicker at height 250."""
    font = ImageFont.load_default(250)
    box = font.getbbox(rank, stroke_width=bold)
    mask = Image.new("L", (round(box[2] - box[0]), round(box[3] - box[1])), 0)
    ImageDraw.Draw(mask).text((-box[0], -box[1]), rank, 255, font, stroke_width=bold)
    return mask.crop(mask.getbbox())


def _draw_suit(
    card: Image.Image,
    suit: str,
    centre: tuple[float, float],
    height: float,
    is_flipped: bool = False,
) -> None:
    """Draw a suit's symbol, `height` of the card high."""
    size = height * card.height * (-1 if is_flipped else 1)
    middle = np.multiply(centre, card.size)
    draw = ImageDraw.Draw(card)
    for outline in _OUTLINES[suit]:
        draw.polygon([tuple(point) for point in (middle + size * outline).tolist()], _INK[suit])


def _outlines() -> dict[str, list[np.ndarray]]:
    """Return suit -> the polygons (points, 2) of its symbol in [-0.5, 0.5]^2, y down."""
    t = np.linspace(0, 2 * np.pi, 97)
    cos, sin = np.cos(t), np.sin(t)
    heart = np.stack(
        [16 * sin**3, -13 * cos + 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t)], 1
    )
    heart = (heart - [0, (heart[:, 1].max() + heart[:, 1].min()) / 2]) / np.ptp(heart[:, 1])
    circle = np.stack([cos, sin], 1)
    diamond = (0.39, 0.5) * np.sign(circle) * abs(circle) ** 2.3  # 2 would be a rhombus
    stem = np.array([(0.035, 0.0), (0.06, 0.3), (0.2, 0.5), (-0.2, 0.5), (-0.06, 0.3), (-0.035, 0)])
    leaf = 0.235 * circle
    return {
        "hearts": [heart],
        "diamonds": [diamond],
        "spades": [heart * (0.92, -0.84) - (0, 0.08), stem],
        "clubs": [leaf + at for at in ((0, -0.265), (-0.25, 0.1), (0.25, 0.1))]
        + [leaf * 0.5, stem],
    }


_OUTLINES = _outlines()
