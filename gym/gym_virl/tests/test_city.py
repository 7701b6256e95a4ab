"""What the procedural city looks like, and that its parts are where its words say."""

import math
import time

import numpy as np
import pytest

from gym_virl.city import KINDS, MAX_LEGS, STYLES, City, city_of
from gym_virl.geo import heading, side
from gym_virl.routes import name_in, side_in
from gym_virl.scenery import (
    CityPanoramas,
    Scenery,
    city_panoramas,
    front_of,
    panorama_width,
)


@pytest.mark.parametrize("name", STYLES)
def test_landmarks_stand_where_the_route_says(name):
    city = City(name)
    for number in range(20):
        route = city.route(number)
        for milestone, at in zip(route.milestones, route.landmarks, strict=True):
            assert (milestone.sight is None) == (at is None)
            if at is not None:
                towards = heading(milestone.place, at)
                # Headings are whole degrees: one at the edge of two sides may be either.
                sides = {side(milestone.heading + shift, towards) for shift in (-1, 0, 1)}
                assert side_in(milestone.sight) in sides


def test_a_route_goes_along_streets_and_meets_no_corner_twice():
    city = City("milan")
    corners = {city.to_place(node) for node in city.nodes}
    for number in range(50):
        places = [milestone.place for milestone in city.route(number).milestones]
        assert set(places[:-1]) <= corners
        assert places[-1] not in corners
        assert len(set(places)) == len(places)
        assert 2 <= len(places) <= MAX_LEGS
        assert len(city.route(number, 3).milestones) <= 3


def test_a_thousand_routes_are_made_quickly():
    city = City("new_york", seed=3)
    began = time.process_time()
    for number in range(1000):
        city.route(number)
    assert time.process_time() - began < 20


def test_every_kind_has_a_front_of_its_own():
    fronts = {kind: front_of(f"Ellery {kind}", kind) for kind in KINDS}
    means = np.array([front[40:].mean(axis=(0, 1)) for front in fronts.values()])
    apart = np.linalg.norm(means[:, None] - means, axis=-1) + 1e3 * np.eye(len(means))
    assert apart.min() > 30
    assert not np.array_equal(front_of("Birch Cafe", "Cafe"), front_of("Ellery Cafe", "Cafe"))


def test_a_panorama_has_sky_above_ground_below_and_houses_between():
    city = city_of("new_york")
    pixels = Scenery(city).panorama(city.nodes[44], 0.0, 256)
    assert pixels.shape == (128, 256, 3)
    sky, ground = pixels[0].astype(int), pixels[-1].astype(int)
    assert (sky[:, 2] > sky[:, 0] + 40).all()
    assert np.ptp(ground.reshape(-1, 3), axis=0).max() < 12  # the middle of a crossing
    assert pixels[50:64].reshape(-1, 3).std(axis=0).min() > 20


def test_a_landmark_is_seen_where_it_stands():
    """Without the place its corner looks another way, and nothing else does."""
    city = City("london")
    node = next(i for i, corner in enumerate(city.corners) if corner is not None)
    landmark, at = city.corners[node], city.nodes[node]
    with_it = Scenery(city).panorama(at, 0.0, 360)
    city.corners[node] = None
    without = Scenery(city).panorama(at, 0.0, 360)
    changed = np.flatnonzero((with_it != without).any(axis=(0, 2)))
    towards = math.degrees(math.atan2(landmark.at[0] - at[0], landmark.at[1] - at[1]))
    off = (changed + 0.5 - 180 - towards + 180) % 360 - 180  # degrees, one a column
    assert len(changed) > 30
    assert np.abs(off).max() < 60
    assert off.min() < 0 < off.max()


def test_cities_look_different_and_equal_seeds_the_same():
    views = {}
    for name in STYLES:
        panoramas = city_panoramas(name, 0, 256)
        views[name] = panoramas.load(0).pixels.astype(float)
    names = list(STYLES)
    for i, one in enumerate(names):
        for other in names[:i]:
            assert np.abs(views[one] - views[other]).mean() > 8
    again = CityPanoramas(City("lagos"), 256).load(0)
    np.testing.assert_array_equal(again.pixels, views["lagos"])


def test_panoramas_are_about_ten_metres_apart_on_every_street():
    city = city_of("hong_kong")
    for a, b in city.streets[:40]:
        points = np.concatenate([[city.nodes[a]], city.points_between(a, b), [city.nodes[b]]])
        gaps = np.linalg.norm(np.diff(points, axis=0), axis=1)
        assert 6 < gaps.min() <= gaps.max() < 14
        np.testing.assert_array_equal(city.points_between(a, b), city.points_between(b, a))


def test_views_are_cut_from_panoramas_about_as_sharp():
    assert [panorama_width(side) for side in (1, 43, 100, 320, 1200)] == [256, 256, 512, 2048, 2048]


def test_names_in_sentences_are_those_of_places():
    city = city_of("lagos")
    named = {place.name for place in city.fronts.values()}
    assert all(name_in(city.route(n).milestones[-1].sight) in named for n in range(30))
