"""Route files, rails and instructions."""

import json

import numpy as np
import pytest

from gym_dialogue import InputError
from gym_virl.city import City
from gym_virl.env import NavigationEnv
from gym_virl.geo import between, distance
from gym_virl.prompts import instruction_steps
from gym_virl.rail import lay_rail
from gym_virl.routes import Milestone, Route, read_blocks, read_routes, side_in, write_routes

# As in the released data: no valid JSON, and a name with quotes in it.
BLOCKS = """{
"intersection_idx": "1",
"landmarks": "Joe "the Pen" Diner is on your left front",
"distance": "60 meters",
"human_heading": "350",
"to_next_intersection_heading": "10 (north)",
}
{
"intersection_idx": "2",
"landmarks": "No landmark nearby",
"distance": "100 meters",
"human_heading": "10",
"to_next_intersection_heading": "102 (east)",
}
{
"intersection_idx": "3",
"landmarks": "The destination Union Bank is on your right",
"distance": "40 meters",
"human_heading": "102",
}"""


def released(**changes):
    route = {
        "start_place": {"name": "A", "geocode": [40.0, -74.0], "relocated_geocode": [40.0, -74.0]},
        "dest_place": {"name": "Union Bank", "geocode": [40.0014, -73.9995]},
        "route_results": {
            "geocode_list": [[40.0005, -74.0001], [40.0014, -73.9999], [40.0013, -73.9994]],
            "landmark_list": [{"name": "Joe", "geocode": [40.0, -74.0]}, None],
            "distance_list": [60, 100, 40],
        },
        "init_heading": 200,
        "instruction": "as released",
        "milestone_info": BLOCKS,
    }
    return route | changes


def saved(tmp_path, routes, count=None):
    path = tmp_path / "route_infos.json"
    path.write_text(json.dumps([routes, len(routes) if count is None else count]))
    return path


def test_a_released_route_is_read(tmp_path):
    (route,) = read_routes(saved(tmp_path, [released()]))
    assert route.start == (40.0, -74.0)
    assert route.init_heading == 200
    assert [m.sight for m in route.milestones] == [
        'Joe "the Pen" Diner is on your left front',
        None,
        "The destination Union Bank is on your right",
    ]
    assert [(m.arrival, m.departure) for m in route.milestones] == [
        (350, 10),
        (10, 102),
        (102, None),
    ]
    assert route.destination == "Union Bank"


def test_each_turn_is_named_both_ways_and_north_is_crossed_rightly(tmp_path):
    (route,) = read_routes(saved(tmp_path, [released()]))
    steps = instruction_steps(lay_rail(route, np.random.default_rng(0)).stretches)
    assert steps == [
        "1. Turn right, to face north.",
        '2. Move forward until the next intersection, where Joe "the Pen" Diner is on your left '
        "front.",
        "3. Turn slightly right, to face north.",  # 350 to 10 degrees
        "4. Move forward until the next intersection.",
        "5. Turn right, to face east.",
        "6. Move forward until the destination Union Bank, on your right.",
    ]


def test_the_move_across_north_is_slightly_right(tmp_path):
    env = NavigationEnv(str(saved(tmp_path, [released()])), absolute_action=False, drop_rate=1.0)
    _, info = env.reset(seed=0)
    assert info["gt_action"] == "turn_direction(right)"  # from 200 degrees to about 351
    _, _, _, _, info = env.step(env.oracle_reply())
    assert (info["heading"], info["gt_action"]) == (350, "turn_direction(slightly right)")
    assert env.step('{"action": "turn_direction(slightly right)"}')[4]["is_right"]


def test_names_in_any_alphabet_are_in_the_spaces(tmp_path):
    named = released(milestone_info=BLOCKS.replace('Joe "the Pen" Diner', "Café Übermut"))
    env = NavigationEnv(str(saved(tmp_path, [named])), drop_rate=1.0)
    env.reset(seed=0)
    obs, *_ = env.step(env.oracle_reply())
    assert "Now: Café Übermut is on your left front" in obs["text"]
    assert obs in env.observation_space
    assert "Café Übermut" in env.oracle_reply()
    assert env.oracle_reply() in env.action_space


def test_blocks_are_read_line_by_line():
    blocks = read_blocks(BLOCKS)
    assert [block["intersection_idx"] for block in blocks] == ["1", "2", "3"]
    assert "to_next_intersection_heading" not in blocks[2]
    assert read_blocks("no blocks at all") == []


@pytest.mark.parametrize(
    ("routes", "said"),
    [
        ([released(milestone_info="")], "route 0: has no milestones"),
        ([released(), released(start_place=None)], "route 1: key start_place"),
        ([released(start_place={"geocode": [95, 0]})], "route 0, start_place: [95, 0] is no place"),
        (
            [released(route_results={"geocode_list": [[0, 0], [0, 200], [0, 0]]})],
            "[0, 200] is no place",
        ),
        ([released(route_results={"geocode_list": [[0, 0]]})], "3 blocks, but geocode_list 1"),
        (
            [released(milestone_info=BLOCKS.replace('"350"', '"ahead"'))],
            "milestone 1, human_heading",
        ),
        (
            [released(milestone_info=BLOCKS.replace('"102 (east)"', f'"{"9" * 400}"'))],
            "milestone 2, to_next_intersection_heading",
        ),
        ([released(init_heading="north")], "init_heading: must be a number"),
        ([released(init_heading=float("nan"))], "init_heading: must be a number"),
        ([released(init_heading=True)], "init_heading: must be a number"),
        ([], "holds no route"),
    ],
)
def test_bad_routes_are_named(tmp_path, routes, said):
    with pytest.raises(InputError, match=r"route_infos\.json") as error:
        read_routes(saved(tmp_path, routes))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ('[[{"start_place":', "is not whole JSON"),
        ('{"routes": []}', "must be a list"),
        ("[[{}], 2]", "says that it holds 2 routes, but holds 1"),
    ],
)
def test_bad_files_are_named(tmp_path, text, said):
    path = tmp_path / "route_infos.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_routes(path)


def test_written_routes_are_read_as_they_were(tmp_path):
    city = City("london")
    routes = [city.route(number) for number in range(40)]
    write_routes(tmp_path / "route_infos.json", routes, [""] * len(routes))
    for route, again in zip(routes, read_routes(tmp_path / "route_infos.json"), strict=True):
        assert again.milestones == route.milestones
        assert (again.start, again.init_heading) == (route.start, route.init_heading)
        assert again.is_heldout == route.is_heldout


def straight(length=100.0):
    """One leg to the east."""
    degrees = length / 111_195
    here = (0.0, 0.0)
    return Route("r", here, 90.0, (Milestone((0.0, degrees), None, 90, None),))


@pytest.mark.parametrize(("drop_rate", "kept"), [(0.0, 5), (1.0, 0)])
def test_a_leg_has_points_up_to_its_milestone(drop_rate, kept):
    rail = lay_rail(straight(), np.random.default_rng(0), 5, drop_rate)
    assert [p.kind for p in rail.positions] == ["turn", *["forward"] * kept, "stop"]
    if kept:
        assert rail.positions[-2].place == pytest.approx(rail.positions[-1].place)
        gaps = [
            distance(a.place, b.place)
            for a, b in zip(rail.positions, rail.positions[1:-1], strict=False)
        ]
        assert gaps == pytest.approx([20] * 5, rel=1e-3)


def test_nothing_is_interpolated_on_a_short_leg():
    rail = lay_rail(straight(4.0), np.random.default_rng(0), 5, 0.0)
    assert [p.kind for p in rail.positions] == ["turn", "stop"]


def test_about_half_of_the_points_are_dropped():
    rng = np.random.default_rng(0)
    count = sum(len(lay_rail(straight(), rng).positions) - 2 for _ in range(1000))
    assert 2400 < count < 2600


def test_points_are_moved_to_known_places_and_keep_clear_of_the_ends():
    route = straight()
    end = route.milestones[-1].place
    known = [between((0.0, 0.0), end, share) for share in (0.0, 0.05, 0.41, 0.58, 0.97, 1.0)]

    def relocate(place):
        nearest = min(known, key=lambda k: distance(k, place))
        return nearest if distance(nearest, place) < 20 else None

    rail = lay_rail(route, np.random.default_rng(0), 5, 0.0, relocate)
    assert [p.place for p in rail.positions] == [known[0], known[2], known[3], known[5]]


def test_a_start_heading_of_zero_is_drawn():
    route = straight()
    unknown = Route("r", route.start, 0.0, route.milestones)
    found = {
        lay_rail(unknown, np.random.default_rng(seed)).positions[0].heading for seed in range(50)
    }
    assert len(found) > 30
    again = [lay_rail(unknown, np.random.default_rng(3)) for _ in range(2)]
    assert again[0] == again[1]


def test_a_start_at_the_first_milestone_is_that_milestone():
    here = (40.0, -74.0)
    milestones = (
        Milestone(here, "A Bank is on your left", 0, 90),
        Milestone((40.0, -73.999), None, 90, None),
    )
    rail = lay_rail(Route("r", here, 180.0, milestones), np.random.default_rng(0), 5, 1.0)
    assert [p.kind for p in rail.positions] == ["turn", "stop"]
    assert rail.positions[0].is_intersection
    assert rail.positions[0].turn == ("left", "east")


def test_sides_in_sentences():
    assert side_in("The destination Left Bank is on your left behind") == "left behind"
    assert side_in("No landmark nearby") is None
