"""Route files, rails and instructions."""

import json
from pathlib import Path

import numpy as np
import pytest

from gym_dialogue import InputError
from gym_virl.city import City
from gym_virl.env import NavigationEnv
from gym_virl.geo import between, distance
from gym_virl.prompts import OWN
from gym_virl.rail import Stretch, lay_rail
from gym_virl.routes import Milestone, Route, read_blocks, read_routes, side_in, write_routes

DATA = Path(__file__).parent / "data"

# As in the released data: no valid JSON, and a name with quotes in it. Each block tells of the leg
# into its milestone; what human_heading says decides nothing.
BLOCKS = """{
"intersection_idx": "1",
"landmarks": "Joe "the Pen" Diner is on your left front",
"distance": "60 meters",
"human_heading": "200",
"to_next_intersection_heading": "350 (north)",
}

{
"intersection_idx": "2",
"landmarks": "No landmark nearby",
"distance": "100 meters",
"human_heading": "ahead",
"to_next_intersection_heading": "10 (north)",
}

{
"intersection_idx": "3",
"landmarks": "The destination Union Bank is on your right",
"distance": "40 meters",
"to_next_intersection_heading": "102 (east)",
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
    assert [(m.heading, m.direction) for m in route.milestones] == [
        (350, "north"),
        (10, "north"),
        (102, "east"),
    ]
    assert route.destination == "Union Bank"


def test_each_turn_is_named_both_ways_and_north_is_crossed_rightly(tmp_path):
    (route,) = read_routes(saved(tmp_path, [released()]))
    rail = lay_rail(route, np.random.default_rng(0))
    assert OWN.instruction(OWN.instruction_steps(rail.stretches)).splitlines() == [
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
    assert info["gt_action"] == "turn_direction(right)"  # from 200 degrees to 350
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
    assert "human_heading" not in blocks[2]
    assert read_blocks("no blocks at all") == []


@pytest.mark.parametrize(
    ("routes", "line"),
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
            [released(milestone_info=BLOCKS.replace("350 (north)", "ahead"))],
            "milestone 1, to_next_intersection_heading: 'ahead' does not start with a number",
        ),
        (
            [released(milestone_info=BLOCKS.replace('"102 (east)"', f'"{"9" * 400}"'))],
            "milestone 3, to_next_intersection_heading",
        ),
        (
            [released(milestone_info=BLOCKS.replace("to_next", "to_the"))],
            "milestone 1: key to_next_intersection_heading is missing",
        ),
        ([released(init_heading="north")], "init_heading: must be a number"),
        ([released(init_heading=float("nan"))], "init_heading: must be a number"),
        ([released(init_heading=True)], "init_heading: must be a number"),
        ([], "holds no route"),
    ],
)
def test_bad_routes_are_named(tmp_path, routes, line):
    with pytest.raises(InputError, match=r"route_infos\.json") as error:
        read_routes(saved(tmp_path, routes))
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "cannot be read"),
        ('[[{"start_place":', "is not whole JSON"),
        ('{"routes": []}', "must be a list"),
        ("[[{}], 0]", "its count is 0; must be at least the number of its routes, 1"),
        ('[[{}], "1"]', "its count is '1'; must be"),
    ],
)
def test_bad_files_are_named(tmp_path, text, line):
    path = tmp_path / "route_infos.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=line):
        read_routes(path)


def test_written_routes_are_read_as_they_were(tmp_path):
    city = City("london")
    routes = [city.route(number) for number in range(40)]
    write_routes(tmp_path / "route_infos.json", routes, [""] * len(routes))
    for route, again in zip(routes, read_routes(tmp_path / "route_infos.json"), strict=True):
        assert again.milestones == route.milestones
        assert (again.start, again.init_heading) == (route.start, route.init_heading)
        assert again.is_heldout == route.is_heldout


def test_a_written_block_is_of_the_leg_into_its_milestone(tmp_path):
    route = City("london").route(0)
    write_routes(tmp_path / "route_infos.json", [route], [""])
    text = json.loads((tmp_path / "route_infos.json").read_text())[0][0]["milestone_info"]
    blocks = read_blocks(text)
    assert [block["to_next_intersection_heading"] for block in blocks] == [
        f"{milestone.heading:g} ({milestone.direction})" for milestone in route.milestones
    ]
    before = [route.init_heading, *(milestone.heading for milestone in route.milestones)]
    assert [float(block["human_heading"]) for block in blocks] == before[:-1]


def straight(length=100.0):
    """One leg to the east."""
    degrees = length / 111_195
    here = (0.0, 0.0)
    return Route("r", here, 90.0, (Milestone((0.0, degrees), None, 90, "east"),))


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
    headings = {
        lay_rail(unknown, np.random.default_rng(seed)).positions[0].heading for seed in range(50)
    }
    assert len(headings) > 30
    again = [lay_rail(unknown, np.random.default_rng(3)) for _ in range(2)]
    assert again[0] == again[1]


def test_a_start_at_the_first_milestone_is_a_leg_all_the_same():
    here = (40.0, -74.0)
    milestones = (
        Milestone(here, "A Bank is on your left", 0, "north"),
        Milestone((40.0, -73.999), None, 90, "east"),
    )
    rail = lay_rail(Route("r", here, 180.0, milestones), np.random.default_rng(0), 5, 1.0)
    assert [(p.kind, p.is_intersection) for p in rail.positions] == [
        ("turn", False),
        ("turn", True),
        ("stop", False),
    ]
    assert [p.turn for p in rail.positions[:2]] == [("right", "north"), ("right", "east")]


def walked(env, number):
    """The right actions of a route, in order."""
    _, info = env.reset(seed=0, options={"route_idx": number})
    actions, ended = [], False
    while not ended:
        actions.append(info["gt_action"])
        _, _, ended, _, info = env.step(env.oracle_reply())
    return actions


@pytest.mark.parametrize("number", range(8))
def test_released_routes_have_their_right_moves(tmp_path, number):
    data = json.loads((DATA / "virl_routes.json").read_text())
    path = saved(tmp_path, data["routes"])
    wanted = [case for case in data["expected"] if case["route"] == number]
    assert len(wanted) == 2
    for case in wanted:
        env = NavigationEnv(str(path), absolute_action=case["absolute"], drop_rate=1.0)
        actions = walked(env, number)
        assert len(actions) == len(case["actions"])
        for action, right in zip(actions, case["actions"], strict=True):
            assert action == right or right == "turn_direction(any)"


def test_a_route_in_the_collectors_shape_is_read_with_its_other_keys_and_count():
    env = NavigationEnv(str(DATA / "virl_real_shape.json"), drop_rate=1.0)
    names = ("northwest", "southwest", "southeast")
    assert walked(env, 0) == [*(f"turn_direction({name})" for name in names), "stop()"]
    assert env.steps[-1] == "Move forward until the destination Corner Design Store, on your left."


def test_only_what_is_needed_of_a_route_must_be_there(tmp_path):
    full = released()
    blocks = "\n".join(
        line
        for line in BLOCKS.splitlines()
        if not any(key in line for key in ("intersection_idx", "distance", "human_heading"))
    )
    bare = {
        "start_place": {"geocode": [40.0, -74.0]},
        "route_results": {"geocode_list": full["route_results"]["geocode_list"]},
        "milestone_info": blocks,
    }
    (route,) = read_routes(saved(tmp_path, [full]))
    (again,) = read_routes(saved(tmp_path, [bare]))
    assert again.milestones == route.milestones
    assert again.destination == "Union Bank"
    assert again.init_heading == 0  # to be drawn


@pytest.mark.parametrize(
    ("value", "heading", "direction"),
    [
        ("298,", 298, "northwest"),
        ("298", 298, "northwest"),
        ("-62.5,\r", 297.5, "northwest"),
        ('"298",', 298, "northwest"),
        ('"298 (north west)",', 298, "northwest"),
        ('"298 (north-west)",', 298, "northwest"),
        ('"298 ( North_West )",', 298, "northwest"),
        ('"298 (North\u2011West)",', 298, "northwest"),
        ('"298 (west)",', 298, "west"),  # its name decides
        ('"26 (north, by the park)",', 26, "north"),
        ('"26 (ahead)",', 26, "northeast"),
        ('"26 ()",', 26, "northeast"),
    ],
)
def test_ways_to_write_a_heading(value, heading, direction, tmp_path):
    written = f'"to_next_intersection_heading": {value}'
    text = BLOCKS.replace('"to_next_intersection_heading": "350 (north)",', written)
    (route,) = read_routes(saved(tmp_path, [released(milestone_info=text)]))
    assert (route.milestones[0].heading, route.milestones[0].direction) == (heading, direction)


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x85", "\x0b"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_of_a_block_ends_at_a_newline_and_nowhere_else(inside, end, tmp_path):
    text = BLOCKS.replace("Union Bank", f"Union{inside}Bank").replace("\n", end)
    (route,) = read_routes(saved(tmp_path, [released(milestone_info=text)]))
    sight = f"The destination Union{inside}Bank is on your right"
    assert [m.sight for m in route.milestones][1:] == [None, sight]
    assert [m.heading for m in route.milestones] == [350, 10, 102]


@pytest.mark.parametrize("north", [360, -360, 360.0])
def test_a_start_that_faces_north_is_not_drawn(north, tmp_path):
    (route,) = read_routes(saved(tmp_path, [released(init_heading=north)]))
    rails = [lay_rail(route, np.random.default_rng(seed)) for seed in range(3)]
    assert {rail.positions[0].heading for rail in rails} == {0}
    assert rails[0].stretches[0].turn == ("slightly left", "north")  # from 0 degrees to 350
    write_routes(tmp_path / "again.json", [route], [""])
    assert read_routes(tmp_path / "again.json")[0].init_heading == 360


def test_a_start_at_0_is_drawn(tmp_path):
    (route,) = read_routes(saved(tmp_path, [released(init_heading=0)]))
    rails = [lay_rail(route, np.random.default_rng(seed)) for seed in range(3)]
    assert len({rail.positions[0].heading for rail in rails}) == 3


def test_a_file_that_was_written_anew_is_read_anew(tmp_path):
    def first_sight():
        env = NavigationEnv(str(tmp_path / "route_infos.json"), drop_rate=1.0)
        return env.atlas[0][1].milestones[0].sight

    saved(tmp_path, [released()])
    assert "Pen" in first_sight()
    saved(tmp_path, [released(milestone_info=BLOCKS.replace("the Pen", "a much longer name"))])
    assert "a much longer name" in first_sight()


@pytest.mark.parametrize(
    ("sight", "step"),
    [
        ("The destination A is on your left", "until the destination A, on your left."),
        ("B Cafe is on your left", "until the destination, where B Cafe is on your left."),
        (
            "B Cafe is on your left; The destination A is on your right",
            "until the destination, where B Cafe is on your left; The destination A is on your "
            "right.",
        ),
        (None, "until the destination."),
    ],
)
def test_what_is_at_the_destination_is_said_once(sight, step):
    steps = OWN.instruction_steps([Stretch(("left", "north"), sight)])
    assert steps[-1] == f"Move forward {step}"


def test_sides_in_sentences():
    assert side_in("The destination Left Bank is on your left behind") == "left behind"
    assert side_in("No landmark nearby") is None
