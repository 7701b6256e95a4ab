"""Perspective views out of equirectangular panoramas, and the grid of four that a policy sees."""

from __future__ import annotations

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

    @cached_property
    def packed(self) -> np.ndarray:
        """((H + 2) * (W + 1),) uint32: the pixels in one number each, the first column again at the
        end of every row, and room for the neighbours of the last row.
        """
        rows, columns, _ = self.pixels.shape
        packed = np.zeros((rows + 2, columns + 1, 4), np.uint8)
        packed[:rows, :-1, :3] = self.pixels
        packed[:, -1] = packed[:, 0]
        packed[rows] = packed[rows - 1]
        return packed.view(np.uint32).reshape(-1)


def perspective(
    panorama: Panorama, heading: float, pitch: float, fov: float, width: int, height: int
) -> np.ndarray:
    """(height, width, 3) uint8: what a camera sees that faces `heading`, `pitch` degrees above the
    horizon, with a horizontal field of view of `fov` degrees; interpolated bilinearly.
    """
    rows, columns, _ = panorama.pixels.shape
    ahead, top_left, below = _rays(pitch, fov, width, height, rows, columns)
    turned = (heading - panorama.rotation) % 360
    u = ahead + round(turned * columns / 360 * _PARTS)
    across = (u & (_PARTS - 1)).astype(np.uint32)
    left = u >> _PARTS_BITS
    np.subtract(left, columns, out=left, where=left >= columns)
    np.add(left, columns, out=left, where=left < 0)
    left += top_left
    packed = panorama.packed
    upper = _mix(packed[left], packed[1:][left], across)
    lower = _mix(packed[columns + 1 :][left], packed[columns + 2 :][left], across)
    view = _mix(upper, lower, below)
    return view.view(np.uint8).reshape(height, width, 4)[..., :3]


def _mix(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Packed pixels between `a` and `b`, which are used up: `share` of 256 parts of b. Two channels
    at a time, with eight bits of room above each.
    """
    rest = _PARTS - share
    first, second = a & _ODD, b & _ODD
    first *= rest
    second *= share
    first += second
    first >>= _PARTS_BITS
    first &= _ODD
    for pixels, weight in ((a, rest), (b, share)):
        pixels >>= 8
        pixels &= _ODD
        pixels *= weight
    a += b
    a &= _EVEN
    a |= first
    return a


_PARTS_BITS = 8
_PARTS = 1 << _PARTS_BITS  # of a pixel, in interpolation
_ODD, _EVEN = 0x00FF00FF, 0xFF00FF00


@lru_cache(maxsize=16)
def _rays(
    pitch: float, fov: float, width: int, height: int, rows: int, columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every pixel's ray, each (height * width,): columns clockwise of the camera's heading, in
    256th; where the panorama's row above it starts; and how far below that it is, in 256th.
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
        ((v - top) * _PARTS).astype(np.uint32),
    )


def view_grid(panorama: Panorama, heading: float, side: int, order: ViewOrder) -> np.ndarray:
    """(2 * side + 5, 2 * side + 5, 3) uint8: four views of `side` pixels, for an agent that faces
    `heading`, in two rows with a line between them.
    """
    size = 2 * side + LINE
    grid = np.full((size, size, 3), _LINE_COLOR, np.uint8)
    for number, turned in enumerate(HEADINGS[order]):
        row, column = (i * (side + LINE) for i in divmod(number, 2))
        view = perspective(panorama, heading + turned, 0.0, FIELD_OF_VIEW, side, side)
        for channel in range(3):  # faster than all at once, which copies three bytes at a time
            grid[row : row + side, column : column + side, channel] = view[..., channel]
    return grid
