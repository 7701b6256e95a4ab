"""Perspective views out of equirectangular panoramas, and the grid of four that a policy sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

ViewOrder = Literal["aligned", "released"]

HEADINGS: dict[ViewOrder, tuple[float, ...]] = {
    "aligned": (0.0, 90.0, 180.0, 270.0),
    "released": (-135.0, -45.0, 45.0, 135.0),
}
"""Headings of the four views, relative to the agent's, row by row."""

LINE = 5  # pixels between the views of a grid
FIELD_OF_VIEW = 90.0

_LINE_COLOR = 0


@dataclass(frozen=True)
class Panorama:
    """An equirectangular image, `pixels` uint8 (H, W, 3), RGB: its columns go clockwise once
    around, its rows from the zenith down to the nadir. `rotation` is the heading, in degrees from
    north, that its middle column faces.
    """

    pixels: np.ndarray
    rotation: float

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes once views are cut from it."""
        rows, columns, _ = self.pixels.shape
        return self.pixels.nbytes + 8 * (rows + 2) * (columns + 1)

    @cached_property
    def packed(self) -> np.ndarray:
        """Return ((H + 2) * (W + 1),) uint64: a pixel in each, channels 16 bits apart; the first
        column again at the end of every row, and room for the neighbours of the last row.
        """
        rows, columns, _ = self.pixels.shape
        packed = np.zeros((rows + 2, columns + 1, 4), np.uint16)
        packed[:rows, :-1, :3] = self.pixels
        packed[:, -1] = packed[:, 0]
        packed[rows] = packed[rows - 1]
        return packed.view(np.uint64).reshape(-1)


def perspective(
    panorama: Panorama, heading: float, pitch: float, fov: float, width: int, height: int
) -> np.ndarray:
    """Return (height, width, 3) uint8: what a camera sees that faces `heading`, `pitch` degrees
    above the horizon, with a horizontal field of view of `fov` degrees; interpolated bilinearly.
    """
    rows, columns, _ = panorama.pixels.shape
    ahead, top_left, below = _rays(pitch, fov, width, height, rows, columns)
    turned = round((heading - panorama.rotation) % 360 * columns / 360 * _PARTS)
    packed = panorama.packed
    view = np.empty(width * height, np.uint64)
    for start in range(0, len(view), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        left = ahead[part] + turned
        across = (left & (_PARTS - 1)).astype(np.uint64)
        left >>= _PARTS_BITS
        np.subtract(left, columns, out=left, where=left >= columns)
        np.add(left, columns, out=left, where=left < 0)
        left += top_left[part]
        # `clip` only spares numpy a check of each index, none of which is out of range.
        a, b, c, d = (
            packed[beside:].take(left, mode="clip") for beside in (0, 1, columns + 1, columns + 2)
        )
        view[part] = _mix(_mix(a, b, across), _mix(c, d, across), below[part])
    return view.view(np.uint8).reshape(height, width, 8)[..., :6:2]


def _mix(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return packed pixels between `a` and `b`, which are used up: `share` of 256 parts of b."""
    a *= _PARTS - share
    b *= share
    a += b
    a >>= _PARTS_BITS
    a &= _CHANNELS
    return a


_PARTS_BITS = 8
_PARTS = 1 << _PARTS_BITS  # of a pixel, in interpolation
_CHANNELS = 0x00FF00FF00FF00FF
_AT_ONCE = 1 << 15  # pixels, whose intermediate results stay in a processor's cache


@lru_cache(maxsize=16)
def _rays(
    pitch: float, fov: float, width: int, height: int, rows: int, columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return three arrays (height * width,), for the ray of each pixel: columns clockwise of the
    camera's heading, in 256th; where the panorama's row above it starts; and how far below that it
    is, in 256th.
    """
    focal = width / 2 / np.tan(np.radians(fov) / 2)
    x = np.arange(width) + 0.5 - width / 2
    y = height / 2 - 0.5 - np.arange(height)
    right, up = (a.ravel() for a in np.meshgrid(x, y))
    cos, sin = np.cos(np.radians(pitch)), np.sin(np.radians(pitch))
    forward, up = focal * cos - up * sin, focal * sin + up * cos
    # Pixel centres are at half-integers of the panorama's columns and rows.
    ahead = np.degrees(np.arctan2(right, forward)) * columns / 360 + columns / 2 - 0.5
    down = 90 - np.degrees(np.arctan2(up, np.hypot(right, forward)))
    v = np.clip(down * rows / 180 - 0.5, 0, rows - 1)
    top = v.astype(np.intp)
    return (
        np.round(ahead * _PARTS).astype(np.intp),
        top * (columns + 1),
        ((v - top) * _PARTS).astype(np.uint64),
    )


def view_grid(panorama: Panorama, heading: float, side: int, order: ViewOrder) -> np.ndarray:
    """Return (2 * side + 5, 2 * side + 5, 3) uint8: four views of `side` pixels, for an agent that
    faces `heading`, in two rows with a line between them.
    """
    size = 2 * side + LINE
    grid = np.full((size, size, 3), _LINE_COLOR, np.uint8)
    for number, view in enumerate(_views(panorama, heading, side, order)):
        row, column = (i * (side + LINE) for i in divmod(number, 2))
        for channel in range(3):  # faster than all at once, which copies three bytes at a time
            grid[row : row + side, column : column + side, channel] = view[..., channel]
    return grid


def views_apart(panorama: Panorama, heading: float, side: int, order: ViewOrder) -> np.ndarray:
    """Return the same four views as images of their own, (4, side, side, 3) uint8."""
    return np.stack(list(_views(panorama, heading, side, order)))


def _views(panorama: Panorama, heading: float, side: int, order: ViewOrder) -> Iterator[np.ndarray]:
    for turned in HEADINGS[order]:
        yield perspective(panorama, heading + turned, 0.0, FIELD_OF_VIEW, side, side)
