"""The environment, its verifier, and the city written in the released form."""

import json
import pickle
import time
import tracemalloc
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import gym_virl
from gym_dialogue import InputError, NoisyOraclePolicy, OraclePolicy, RandomPolicy, Task, rollout
from gym_virl.city import STYLES, City
from gym_virl.draw import Config as DrawConfig
from gym_virl.draw import main as draw
from gym_virl.export import Config as ExportConfig
from gym_virl.export import main as export
from gym_virl.panoramas import Config as TableConfig
from gym_virl.panoramas import PanoramaFiles, encode_image, read_table, write_table
from gym_virl.panoramas import main as convert
from gym_virl.rail import Position
from gym_virl.streetview import perspective
from gym_virl.verifier import read_action, says_intersection, verify

VIEWS = {"language_only": False, "resolution": 24}


def make(**kwargs):
    return gymnasium.make(gym_virl.ENV_ID, **kwargs)


def played(env, policy, seed=0, options=None):
    (episode,) = rollout([env], policy, [Task(seed, (seed,), options)])
    return episode


@pytest.mark.parametrize(
    "kwargs",
    [{}, VIEWS, {"absolute_action": False, "on_failure": "go_on"}, {"city": "mini_benchmark"}],
)
def test_check_env(kwargs):
    check_env(make(**kwargs).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("kwargs", [{}, VIEWS])
def test_the_same_seed_gives_the_same_episode(kwargs):
    def trace(env, seed):
        obs, _ = env.reset(seed=seed)
        seen = [obs]
        while True:
            obs, _, ended, _, _ = env.step(env.unwrapped.oracle_reply())
            seen.append(obs)
            if ended:
                return seen

    one, other = trace(make(**kwargs), 5), trace(make(**kwargs), 5)
    assert [o["text"] for o in one] == [o["text"] for o in other]
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.get("image"), b.get("image"))
    assert trace(make(**kwargs), 6)[0]["text"] != one[0]["text"]


@pytest.mark.parametrize("absolute", [True, False])
def test_the_oracle_walks_to_the_destination(absolute):
    env = make(absolute_action=absolute)
    for seed in range(20):
        episode = played(env, OraclePolicy(), seed)
        assert episode.is_success
        assert {turn.outcome for turn in episode.turns} == {"CORRECT_ACTION"}
        kinds = [turn.kind for turn in episode.turns]
        assert kinds[0] == "turn"
        assert kinds[-1] == "stop"
        assert len(episode.dialogues) == len(episode.turns)


def test_history_is_in_the_prompt_and_a_right_move_starts_afresh():
    env = make(drop_rate=0.0)
    env.reset(seed=1)
    obs, reward, ended, _, info = env.step(env.unwrapped.oracle_reply())
    assert (obs["new_dialogue"], reward, ended) == (1, 1.0, False)
    assert (
        "O_1: No landmark nearby; you are not at an intersection.\nA_1: turn_direction("
        in (obs["text"])
    )
    assert info["remaining_steps"] == 2
    before = obs["text"]
    obs, _, ended, _, info = env.step("{}")
    assert (obs["new_dialogue"], ended, info["remaining_steps"]) == (0, False, 1)
    assert obs["text"] == info["feedback"] != before


def test_what_a_failed_position_does():
    for on_failure, goes_on in (("end", False), ("go_on", True)):
        env = make(on_failure=on_failure)
        env.reset(seed=1)
        env.step("{}")
        obs, reward, ended, _, info = env.step("{}")
        assert reward == -1
        assert ended is not goes_on
        assert not info["is_success"]
        assert info["feedback"]
        if goes_on:
            assert obs["new_dialogue"] == 1
            assert "A_1: turn_direction(" in obs["text"]  # the right move, as if it had been made
    # A route with a failed position is failed, and walked to its end.
    env = make(on_failure="go_on")
    oracle = played(env, OraclePolicy(), 3)
    failing = [played(env, NoisyOraclePolicy(0.6), seed=3) for _ in range(2)]
    assert not failing[0].is_success
    assert len(failing[0].dialogues) == len(oracle.dialogues)
    assert [t.reply.text for t in failing[0].turns] == [t.reply.text for t in failing[1].turns]


def test_random_play_is_legal():
    env = make(on_failure="go_on")
    for seed in range(10):
        episode = played(env, RandomPolicy(), seed)
        outcomes = {turn.outcome for turn in episode.turns}
        assert outcomes <= {"CORRECT_ACTION", "INCORRECT_ACTION", "INCORRECT_OBS"}


AHEAD = Position("forward", (0.0, 0.0), 0.0, 1)
CROSSING = Position(
    "turn", (0.0, 0.0), 350.0, 2, "Birch Cafe is on your left", True, ("slightly right", "north")
)
AT, NOT_AT = "you are at an intersection", "you are not at an intersection"


@pytest.mark.parametrize(
    ("position", "absolute", "reply", "outcome", "reward"),
    [
        (AHEAD, True, {"current observation": NOT_AT, "action": "forward()"}, "CORRECT_ACTION", 1),
        (AHEAD, True, {"action": " Forward( ) "}, "CORRECT_ACTION", 1),
        (AHEAD, True, {"current observation": NOT_AT, "action": "stop()"}, "INCORRECT_ACTION", -1),
        (AHEAD, True, {"current observation": AT, "action": "stop()"}, "INCORRECT_OBS", -1.5),
        # The action decides, whatever is said of the place.
        (AHEAD, True, {"current observation": AT, "action": "forward()"}, "CORRECT_ACTION", 1),
        (CROSSING, True, {"action": "turn_direction(north)"}, "CORRECT_ACTION", 1),
        (CROSSING, True, {"action": "turn_direction('North')"}, "CORRECT_ACTION", 1),
        (CROSSING, False, {"action": "turn_direction(slightly right)"}, "CORRECT_ACTION", 1),
        (CROSSING, False, {"action": "turn_direction(slightly_right)"}, "CORRECT_ACTION", 1),
        # The other rule's word is not the action.
        (
            CROSSING,
            False,
            {"current observation": AT, "action": "turn_direction(north)"},
            "INCORRECT_ACTION",
            -1,
        ),
        (
            CROSSING,
            True,
            {"current observation": f"Birch Cafe; {AT}", "action": "forward()"},
            "INCORRECT_ACTION",
            -1,
        ),
        (
            CROSSING,
            True,
            {"current observation": "Birch Cafe is on your left", "action": "forward()"},
            "INCORRECT_OBS",
            -1.5,
        ),
        (AHEAD, True, {"current observation": NOT_AT}, "INCORRECT_ACTION", -1),
        (AHEAD, True, {"action": "forward(north)"}, "INCORRECT_ACTION", -1),
        (CROSSING, True, {"action": "turn_direction()"}, "INCORRECT_OBS", -1.5),
        (AHEAD, True, {"action": "stop() forward()"}, "INCORRECT_ACTION", -1),
    ],
)
def test_outcomes(position, absolute, reply, outcome, reward):
    verdict = verify(json.dumps(reply), position, absolute)
    assert (verdict.outcomes, verdict.reward) == ((outcome,), reward)
    assert bool(verdict.feedback) is (outcome != "CORRECT_ACTION")
    assert verdict.is_right is (outcome == "CORRECT_ACTION")


def test_what_a_reply_says_of_the_instruction_is_not_judged():
    for instruction in ("stand on your head", None):
        reply = {
            "current observation": NOT_AT,
            "current instruction": instruction,
            "action": "forward()",
        }
        assert verify(json.dumps(reply), AHEAD, True).outcomes == ("CORRECT_ACTION",)


def test_feedback_tells_the_outcomes_apart():
    replies = [
        (CROSSING, {"current observation": NOT_AT, "action": "stop()"}),
        (AHEAD, {"current observation": AT, "action": "stop()"}),
        (AHEAD, {"current observation": NOT_AT, "action": "stop()"}),
        (AHEAD, {"current observation": NOT_AT, "action": "go"}),
    ]
    assert len({verify(json.dumps(r), p, True).feedback for p, r in replies}) == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (AT, True),
        (NOT_AT, False),
        ("I see no landmark, and I'm not yet at an intersection", False),
        ("No landmark nearby - you are at an intersection", True),
        ("No landmark nearby \u2014 you are at an intersection", True),
        ("No landmark nearby (you are at an intersection)", True),
        ("No landmark nearby / you are at an intersection", True),
        ("No landmark nearby, plus you are at an intersection", True),
        ("Not at a well-known intersection", False),
        ("At the intersection of two streets", True),
        ("There is no intersection here", False),
        ("Move forward until the next intersection", False),
        ("I'm not near the bank, but I am at an intersection", True),
        ("No landmark nearby and you are at an intersection", True),
        ("There is no shop here and this is an intersection", True),
        ("You see no landmark but you are at an intersection", True),
        ("No landmark: you are at an intersection", True),
        ("Birch Cafe is not on your left while you stand at an intersection", True),
        ("You are at an intersection and there is no landmark", True),
        ("An intersection without a landmark", True),
        ("No landmark nearby and you are not at an intersection", False),
        ("There is no landmark and intersection nearby", False),
        ("There is no landmark or intersection nearby", False),
        ("There is neither a landmark nor an intersection", False),
        ("I don\u2019t see an intersection", False),
        ("I see a bank", False),
        ("", False),
        (None, False),
    ],
)
def test_what_an_observation_says(text, says):
    assert says_intersection(text) is says


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("forward()", "forward()"),
        ("STOP( )", "stop()"),
        ("turn_direction( left )", "turn_direction(left)"),
        ("turn_direction(north-east)", "turn_direction(northeast)"),
        ("turn_direction('North East')", "turn_direction(northeast)"),
        ("turn_direction(slightly-left)", "turn_direction(slightly left)"),
        ("turn_direction(slightly_left)", "turn_direction(slightly left)"),
        ("turn_direction(direction=west)", "turn_direction(west)"),
        ('turn_direction(x = "south-west")', "turn_direction(southwest)"),
        ("turn_direction(X=right);", "turn_direction(right)"),
        ("forward();", "forward()"),
        ("stop() .", "stop()"),
        ("turn_direction(up)", None),
        ("turn_direction(not=left)", None),
        ("turn_direction(direction=)", None),
        ("turn_direction(-)", None),
        ("forward(x)", None),
        ("forward(north)", None),
        ("forward()..", None),
        ("forward(); stop()", None),
        ("forward", None),
        ("", None),
        (None, None),
    ],
)
def test_actions_are_read_leniently(text, action):
    assert read_action(text) == action


@pytest.mark.parametrize(
    "unit",
    [
        "intersection ",
        "no ",
        "no intersection and ",
        "and ",
        "a",
        " ",
        "turn_direction(",
        "n't",
        "no-",
    ],
)
def test_hostile_replies_are_judged_at_once(unit):
    hostile = unit * (250_000 // len(unit))
    began = time.process_time()
    for field in ("current observation", "action"):
        for value in (hostile, f"turn_direction({hostile}", f"not {hostile} intersection"):
            verify(json.dumps({field: value}), AHEAD, True)
            verify(f"{{'{field}': '{value}'}}", AHEAD, True)
    assert time.process_time() - began < 5  # twelve readings; a quadratic one takes minutes


def test_the_last_answer_outside_thinking_counts():
    right, wrong = (json.dumps({"action": action}) for action in ("forward()", "stop()"))
    lenient = "{'action': 'forward();'}"
    for reply, is_right in (
        (f"{wrong} No: {lenient}", True),
        (f"{lenient} No: {wrong}", False),
        (f"<think>{right}</think>I am lost.", False),
        (f"<think>{wrong}</think>{right}", True),
        (f"{right}</think>", False),
    ):
        assert verify(reply, AHEAD, True).is_right is is_right


def test_recognition_is_of_landmarks_in_images_only():
    reply = json.dumps({"current observation": "birch cafe ahead", "action": "stop()"})
    assert verify(reply, CROSSING, True, sees=True).recognized is True
    assert verify("{}", CROSSING, True, sees=True).recognized is False
    assert verify(reply, AHEAD, True, sees=True).recognized is None
    assert verify(reply, CROSSING, True).recognized is None


def test_images_show_the_views_and_the_text_keeps_the_landmark_to_itself():
    env = make(**VIEWS)
    env.reset(seed=2)
    while True:
        reply = env.unwrapped.oracle_reply()
        position = env.unwrapped.position
        obs, _, ended, _, _ = env.step(reply)
        assert obs["image"].shape == (53, 53, 3)
        if ended:
            break
        here = env.unwrapped.position
        now = obs["text"].split("Now: ")[1]
        assert now.startswith(AT if here.is_intersection else NOT_AT)
        assert here.sight is None or here.sight not in now
        assert position.sight is None or position.sight in obs["text"]


def test_the_released_order_of_views_is_an_option():
    env = make(**VIEWS, view_order="released").unwrapped
    obs, _ = env.reset(seed=2)
    assert "at 135 degrees to the left, 45 to the left / 45 to the right" in obs["text"]
    position = env.position
    panorama = env.world.panorama_at(position.place)
    views = [perspective(panorama, position.heading + turn, 0, 90, 24, 24) for turn in (-135, 135)]
    np.testing.assert_array_equal(obs["image"][:24, :24], views[0])
    np.testing.assert_array_equal(obs["image"][-24:, -24:], views[1])
    aligned, _ = make(**VIEWS).reset(seed=2)
    assert "front, right / back, left" in aligned["text"]
    assert not np.array_equal(aligned["image"], obs["image"])


def test_the_mini_benchmark_is_two_routes_in_each_of_nine_cities():
    env = make(city="mini_benchmark", num_routes=2)
    cities = [
        env.reset(options={"route_idx": n})[1]["puzzle"].rpartition("-")[0] for n in range(18)
    ]
    assert cities == [name for name in STYLES for _ in range(2)]
    with pytest.raises(InputError, match="route_idx=18: must be from 0 to 17"):
        env.reset(options={"route_idx": 18})


def test_splits_share_no_route():
    env = {split: make(split=split, num_routes=200) for split in ("train", "heldout")}
    walked = {
        split: {env[split].reset(seed=seed)[1]["puzzle"] for seed in range(60)} for split in env
    }
    assert not walked["train"] & walked["heldout"]
    assert 5 < len(walked["heldout"]) < 40


def test_no_held_out_walk_is_walked_in_training():
    routes = [City("new_york").route(number, 2) for number in range(200)]
    splits = [(route.walk, route.is_heldout) for route in routes]
    held, walked = ({walk for walk, is_held in splits if is_held is kind} for kind in (True, False))
    assert not held & walked
    assert 5 < len(held) < 40
    assert len(held | walked) < 190  # there are routes that differ in the first metres only


def test_a_walk_is_its_milestones_and_destination():
    route = City("london").route(0)
    start = route.start[0] + 1e-4, route.start[1]
    assert replace(route, start=start, name="other").walk == route.walk
    assert replace(route, milestones=route.milestones[:-1]).walk != route.walk


def test_cities_differ_and_are_made_of_their_seed():
    first = {name: City(name).route(0).start for name in STYLES}
    assert len(set(first.values())) == len(STYLES) == 9
    assert City("london").route(7) == City("london").route(7)
    assert City("london", 1).route(7) != City("london").route(7)
    for name in STYLES:
        city = City(name)
        legs = [len(city.route(number).milestones) for number in range(60)]
        assert min(legs) >= 2
        assert max(legs) <= 8
        assert len(set(legs)) >= 6


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A city in the released form, with panoramas for views of 24 pixels."""
    out = tmp_path_factory.mktemp("city") / "city"
    export(
        ExportConfig(out=str(out), city="lagos", num_routes=6, resolution=24, panoramas="routes")
    )
    return out


def files(written, **kwargs):
    return {
        "route_info_path": str(written / "route_infos.json"),
        "panorama_dir": str(written / "street_views"),
        "gps_to_pano_path": str(written / "gps_pano_mapping.pkl"),
    } | kwargs


@pytest.mark.parametrize("kwargs", [{}, {"relocation": True}, VIEWS, {"absolute_action": False}])
def test_a_written_city_is_played_as_the_same_episodes(written, kwargs):
    city = make(city="lagos", num_routes=6, **kwargs)
    read = make(**files(written), **kwargs)
    for seed in range(8):
        one, other = (played(env, NoisyOraclePolicy(0.2), seed) for env in (city, read))
        assert [t.reply.text for t in one.turns] == [t.reply.text for t in other.turns]
        assert [t.outcomes for t in one.turns] == [t.outcomes for t in other.turns]
        for a, b in zip(one.dialogues, other.dialogues, strict=True):
            assert [m.text for m in a.messages] == [m.text for m in b.messages]
            np.testing.assert_array_equal(a.messages[0].image, b.messages[0].image)


@pytest.mark.parametrize("rotation", [0, 90, 213.5])
def test_released_metadata_says_where_north_is_from_the_left_edge(tmp_path, rotation):
    """As V-IRL cuts its views: `rotation` degrees to the right of the left edge is north."""
    column = round(rotation * 2)
    pixels = np.zeros((360, 720, 3), np.uint8)
    pixels[:, np.arange(column - 20, column + 20) % 720] = 255
    (tmp_path / "p.jpg").write_bytes(encode_image(pixels))
    (tmp_path / "p.metadata.json").write_text(json.dumps({"rotation": rotation}))
    write_table(tmp_path / "t.pkl", {(40.0, -74.0): "p"})
    panorama = PanoramaFiles(tmp_path, tmp_path / "t.pkl").load(0)
    for turn, is_north in ((0, True), (90, False), (180, False), (270, False)):
        view = perspective(panorama, turn, 0, 90, 41, 41)
        assert bool(view[20, 20, 0] > 200) is is_north
        assert bool(view.max() > 200) is is_north


def test_the_table_is_converted_to_a_safe_form(written, tmp_path, capsys):
    out = tmp_path / "table.json"
    convert(TableConfig(str(written / "gps_pano_mapping.pkl"), str(out)))
    assert read_table(out) == read_table(written / "gps_pano_mapping.pkl")
    assert "panoramas" in capsys.readouterr().out
    env = make(**files(written, gps_to_pano_path=str(out)), **VIEWS)
    assert played(env, OraclePolicy()).is_success


def test_a_table_with_numpy_numbers_is_read(tmp_path):
    path = tmp_path / "t.pkl"
    for number in (np.float64, np.float32, np.int64):
        path.write_bytes(pickle.dumps({(number(40), number(-74)): "x"}))
        assert read_table(path) == {(40.0, -74.0): "x"}


class _Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (pickle.dumps({(0.0, 0.0): _Evil()}), r"builtins\.print; only plain data"),
        (pickle.dumps({(0.0, 0.0): np.zeros(3)}), "only plain data"),
        (pickle.dumps({(0.0, 0.0): "x"})[:-9], "is damaged"),
        (b"\x80\x04\x95" + b"\xff" * 8, "is damaged"),  # a frame of 2**64 - 1 bytes
        (b"", "is damaged"),
        (pickle.dumps(["x"]), "must be a table"),
        (pickle.dumps({(95.0, 0.0): "x"}), "out of range"),
        (pickle.dumps({(0.0, 0.0): "../x"}), "no panorama id"),
        (None, "cannot be read"),
    ],
)
def test_bad_tables_are_refused(tmp_path, capsys, content, line):
    path = tmp_path / "t.pkl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=line):
        read_table(path)
    assert not capsys.readouterr().out  # nothing was run


METADATA = {
    "no metadata": None,
    "cut metadata": b'{"rotation": ',
    "no rotation": b"{}",
    "rotation is nan": b'{"rotation": NaN}',
    "rotation is text": b'{"rotation": "12"}',
}


@pytest.mark.parametrize("damage", ["missing", "cut", "no image", "huge", *METADATA])
def test_a_bad_panorama_is_named_and_text_goes_on(written, tmp_path, damage):
    views = tmp_path / "views"
    views.mkdir()
    for file in (written / "street_views").iterdir():
        content = file.read_bytes()
        if file.suffix == ".jpg":
            size = content.index(b"\xff\xc0") + 5  # of height and width, in the frame header
            huge = content[:size] + b"\xff" * 4 + content[size + 4 :]
            bad = {"cut": content[:300], "no image": b"x", "huge": huge}
            content = bad.get(damage, content)
            if damage == "missing":
                continue
        else:
            content = METADATA.get(damage, content)
            if content is None:
                continue
        (views / file.name).write_bytes(content)
    arguments = files(written, panorama_dir=str(views))
    with pytest.raises(InputError, match="panorama lagos_0_") as error:
        make(**arguments, **VIEWS).reset(seed=0)
    assert "\n" not in str(error.value)
    assert played(make(**arguments, relocation=True), OraclePolicy()).is_success


def test_a_milestone_without_panorama_is_named(written, tmp_path):
    path = tmp_path / "t.json"
    write_table(path, {(0.0, 0.0): "x"})
    arguments = files(written, gps_to_pano_path=str(path))
    with pytest.raises(InputError, match="there is no panorama within 20 m"):
        make(**arguments, **VIEWS).reset(seed=0)
    assert played(make(**arguments, relocation=True), OraclePolicy()).is_success


@pytest.mark.parametrize(
    ("kwargs", "line"),
    [
        ({"city": "atlantis"}, "city='atlantis': must be one of new_york"),
        ({"city": []}, "city=[]: must be mini_benchmark or one of new_york"),
        ({"city": None}, "city=None: must be mini_benchmark or one of new_york"),
        ({"city": ["london", ["milan"]]}, "city=['milan']: must be one of new_york"),
        ({"drop_rate": 1.5}, "drop_rate=1.5: must be from 0 to 1"),
        ({"straight_line_length": -1}, "straight_line_length=-1"),
        ({"language_only": False, "resolution": 5}, "resolution=5"),
        ({"split": "test"}, "split='test': must be one of train, heldout, all"),
        ({"on_failure": "stop"}, "on_failure='stop': must be one of end, go_on"),
        ({"panorama_dir": "x"}, "need route_info_path"),
        ({"route_info_path": "/nowhere/r.json"}, "route_info_path /nowhere/r.json: cannot be read"),
        ({"verify_iter": 0}, "verify_iter=0"),
    ],
)
def test_bad_arguments_are_one_line(kwargs, line):
    with pytest.raises(InputError) as error:
        make(**kwargs)
    assert line in str(error.value)


@pytest.mark.parametrize("index", [-1, 1000, "3", True])
def test_a_route_idx_that_is_none(index):
    with pytest.raises(InputError, match="route_idx"):
        make().reset(options={"route_idx": index})
    assert make().reset(options={"route_idx": 999})[1]["route_idx"] == 999


def test_memory_does_not_grow():
    env = make(num_routes=50)

    def play(seeds):
        for seed in seeds:
            env.reset(seed=seed)
            while not env.step("{}")[2]:
                pass

    play(range(1000))  # fills what is kept of 50 routes
    tracemalloc.start()
    play(range(1000, 1100))
    before = tracemalloc.get_traced_memory()[0]
    play(range(1100, 1600))
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 50_000


def test_an_episode_is_drawn(tmp_path, capsys):
    turns = tmp_path / "turns.jsonl"
    env = make(on_failure="go_on")
    episode = played(env, NoisyOraclePolicy(0.3), 4)
    shared = {"checkpoint": "c", "suite": "id", "decoding": "sampled", "episode": 0, "env_seed": 4}
    turns.write_text(
        "".join(json.dumps(shared | {"reply": t.reply.text}) + "\n" for t in episode.turns)
    )
    out = tmp_path / "route.png"
    draw(DrawConfig(4, turns=str(turns), env_kwargs={"on_failure": "go_on"}, out=str(out)))
    assert f"{len(episode.dialogues)} positions, failed" in capsys.readouterr().out
    assert out.stat().st_size > 20_000
    with pytest.raises(InputError, match="position=99"):
        draw(DrawConfig(4, position=99, out=str(out)))
    with pytest.raises(InputError, match="no episode with env_seed 5"):
        draw(DrawConfig(5, turns=str(turns), out=str(out)))
    for env_kwargs in ({"on_failure": "end"}, {"on_failure": "go_on", "verify_iter": 9}):
        with pytest.raises(InputError, match="they are of another episode"):
            draw(DrawConfig(4, turns=str(turns), env_kwargs=env_kwargs, out=str(out)))
    with pytest.raises(InputError, match="seed=-1: must be at least 0"):
        draw(DrawConfig(-1, out=str(out)))
