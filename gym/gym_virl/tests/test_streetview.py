"""Perspective views and the grid of them."""

import gymnasium
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

import gym_virl
from gym_virl.panoramas import Kept
from gym_virl.streetview import LINE, Panorama, perspective, view_grid, views_apart


def by_the_book(panorama, heading, pitch, fov, width, height):
    """The same projection, from rotation matrices and scipy's interpolation."""
    rows, columns, _ = panorama.pixels.shape
    focal = width / 2 / np.tan(np.radians(fov) / 2)
    y, x = np.mgrid[:height, :width]
    rays = np.stack([x + 0.5 - width / 2, np.full(x.shape, focal), height / 2 - 0.5 - y], axis=-1)
    p, h = np.radians(pitch), np.radians(heading)
    up = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    around = np.array([[np.cos(h), np.sin(h), 0], [-np.sin(h), np.cos(h), 0], [0, 0, 1]])
    east, north, above = np.moveaxis(rays @ (around @ up).T, -1, 0)
    lng = np.degrees(np.arctan2(east, north)) - panorama.rotation
    lat = np.degrees(np.arctan2(above, np.hypot(east, north)))
    u = ((lng / 360 + 0.5) * columns - 0.5) % columns
    v = np.clip((90 - lat) / 180 * rows - 0.5, 0, rows - 1)
    wide = np.concatenate([panorama.pixels, panorama.pixels[:, :1]], axis=1).astype(float)
    return np.stack(
        [map_coordinates(wide[..., c], [v, u], order=1, mode="nearest") for c in range(3)], axis=-1
    )


@pytest.mark.parametrize(
    ("heading", "pitch", "fov", "rotation"),
    [(0, 0, 90, 0), (200, 0, 90, 37.5), (-170, 10, 60, 300), (359, -25, 100, 12)],
)
def test_a_view_is_the_perspective_projection(heading, pitch, fov, rotation):
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (16, 32, 3)).repeat(8, axis=0).repeat(8, axis=1)
    panorama = Panorama(smooth.astype(np.uint8), rotation)
    view = perspective(panorama, heading, pitch, fov, 60, 40)
    expected = by_the_book(panorama, heading, pitch, fov, 60, 40)
    difference = np.abs(view.astype(float) - expected)
    # Fractions of a pixel are kept in 256 parts, colours are cut off to whole numbers.
    assert difference.mean() < 1.5
    assert np.quantile(difference, 0.99) < 6


def quarters(rotation=0.0):
    """North red, east green, south blue, west white; the middle column faces `rotation`."""
    colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], np.uint8)
    headings = (rotation + (np.arange(720) + 0.5) / 2 - 180) % 360
    row = colors[np.round(headings / 90).astype(int) % 4]
    return Panorama(np.repeat(row[None], 360, axis=0), rotation)


RED, GREEN, BLUE, WHITE = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]


@pytest.mark.parametrize("rotation", [0.0, 90.0, 213.0])
def test_the_grid_has_front_right_back_left(rotation):
    side = 40
    grid = view_grid(quarters(rotation), 90.0, side, "aligned")
    assert grid.shape == (2 * side + LINE, 2 * side + LINE, 3)
    far = side + LINE + side // 2
    middles = [grid[y, x].tolist() for y in (side // 2, far) for x in (side // 2, far)]
    assert middles == [GREEN, BLUE, WHITE, RED]
    assert (grid[side : side + LINE] == 0).all()
    assert (grid[:, side : side + LINE] == 0).all()


def test_the_released_order_looks_between_the_sides():
    grid = view_grid(quarters(), 45.0, 40, "released")  # at -90, 0, 90 and 180 degrees
    middles = [grid[y, x].tolist() for y in (20, 65) for x in (20, 65)]
    assert middles == [WHITE, RED, GREEN, BLUE]


@pytest.mark.parametrize("order", ["aligned", "released"])
def test_views_apart_are_those_of_the_grid(order):
    side = 40
    grid = view_grid(quarters(), 30.0, side, order)
    views = views_apart(quarters(), 30.0, side, order)
    far = slice(side + LINE, None)
    near = slice(side)
    places = [(near, near), (near, far), (far, near), (far, far)]
    for view, (rows, columns) in zip(views, places, strict=True):
        assert (view == grid[rows, columns]).all()


@pytest.mark.parametrize("order", ["aligned", "released"])
def test_environment_shows_its_views_as_images_of_their_own(order):
    settings = {"language_only": False, "resolution": 32, "view_order": order, "max_legs": 2}
    grids, apart = (
        gymnasium.make(gym_virl.ENV_ID, separate_views=separate, **settings)
        for separate in (False, True)
    )
    (grid, _), (views, _) = grids.reset(seed=3), apart.reset(seed=3)
    assert apart.observation_space.contains(views)
    assert views["image"].shape == (4, 32, 32, 3)
    assert (views["image"][3] == grid["image"][32 + LINE :, 32 + LINE :]).all()
    assert "The image shows the street" in grid["text"]
    assert "The four images show the street" in views["text"]
    assert apart.unwrapped.oracle_reply() == grids.unwrapped.oracle_reply()


def test_panoramas_of_all_loaders_are_kept_within_one_bound():
    loaded = []

    def one(number):
        loaded.append(("one", number))
        return Panorama(np.full((8, 16, 3), number, np.uint8), 0.0)

    def other(number):
        loaded.append(("other", number))
        return one(number)

    each = one(0).nbytes
    assert each == one(0).pixels.nbytes + one(0).packed.nbytes
    kept = Kept(3 * each)
    for number in (0, 1):
        kept.get(one, number)
    assert kept.get(other, 0) is not kept.get(one, 0)
    loaded.clear()
    assert kept.get(one, 0).pixels[0, 0, 0] == 0
    assert not loaded
    kept.get(other, 1)  # in the place of the one that was asked for longest ago
    assert kept.nbytes == 3 * each
    loaded.clear()
    kept.get(one, 0)
    assert not loaded
    kept.get(one, 1)
    assert loaded == [("one", 1)]
