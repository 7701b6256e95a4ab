"""Distances, headings and their names."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gym_virl.geo import (
    NearestPlace,
    between,
    compass,
    distance,
    heading,
    is_place,
    relative,
    side,
    wrap,
)

PLACES = st.tuples(st.floats(-80, 80), st.floats(-180, 180))


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        (350, 10, "slightly right"),  # across north
        (10, 350, "slightly left"),
        (0, 90, "right"),
        (90, 0, "left"),
        (0, 45, "slightly right"),
        (0, 46, "right"),
        (0, 315, "slightly left"),
        (0, 314, "left"),
        (120, 120, "slightly left"),
        (0, 180, "right"),
        (181, 0, "right"),
        (179, 0, "left"),
    ],
)
def test_turns_are_named_after_the_wrapped_angle(before, after, name):
    assert relative(before, after) == name
    assert relative(before + 360, after - 720) == name


@given(st.floats(-1e4, 1e4))
def test_wrap_is_the_same_angle_in_half_a_turn(angle):
    wrapped = wrap(angle)
    assert -180 < wrapped <= 180
    assert math.isclose(
        math.cos(math.radians(angle)), math.cos(math.radians(wrapped)), abs_tol=1e-9
    )


@pytest.mark.parametrize(
    ("angle", "name"), [(0, "north"), (22, "north"), (23, "northeast"), (26, "northeast"),
                        (338, "north"), (337, "northwest"), (200, "south"), (-90, "west")]
)  # fmt: skip
def test_compass_names(angle, name):
    assert compass(angle) == name


@pytest.mark.parametrize(
    ("facing", "towards", "name"),
    [(0, 0, "front"), (90, 90, "front"), (350, 35, "right front"), (0, 270, "left"),
     (180, 0, "behind"), (90, 225, "right behind"), (45, 0, "left front")],
)  # fmt: skip
def test_sides(facing, towards, name):
    assert side(facing, towards) == name


def test_known_distances_and_headings():
    paris, london = (48.8566, 2.3522), (51.5074, -0.1278)
    assert distance(paris, london) == pytest.approx(343_500, rel=2e-3)
    assert heading(paris, london) == pytest.approx(330.0, abs=0.5)
    assert heading((0, 0), (1, 0)) == 0
    assert heading((0, 0), (0, 1)) == pytest.approx(90)
    assert heading((0, 179.99), (0, -179.99)) == pytest.approx(90)


@given(PLACES, PLACES)
def test_distance_is_symmetric(a, b):
    assert distance(a, b) == pytest.approx(distance(b, a))
    assert distance(a, a) == 0


def test_between_crosses_the_180th_meridian():
    middle = between((10, 179.9), (10, -179.9), 0.5)
    assert middle[0] == 10
    assert abs(middle[1]) == pytest.approx(180)
    assert between((1, 2), (3, 4), 1.0) == (3, 4)


def test_the_nearest_place_is_what_trying_all_finds():
    rng = np.random.default_rng(0)
    places = [tuple(p) for p in np.array([40.7, -74.0]) + rng.uniform(-0.002, 0.002, (300, 2))]
    index = NearestPlace(places)
    for _ in range(200):
        here = tuple(np.array([40.7, -74.0]) + rng.uniform(-0.003, 0.003, 2))
        far = [distance(here, place) for place in places]
        expected = int(np.argmin(far)) if min(far) < 20 else None
        assert index.find(here, 20) == expected
    assert NearestPlace([]).find((0, 0), 20) is None


@pytest.mark.parametrize(
    "value", [[91, 0], [0, 181], [0], ["1", "2"], None, [True, False], [float("nan"), 0]]
)
def test_what_is_no_place(value):
    assert not is_place(value)
