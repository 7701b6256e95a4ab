"""Wording files: what is read and refused, and deriving them from SFT data."""

import json
import re
from dataclasses import replace

import gymnasium
import pytest

import gym_virl
from gym_dialogue import InputError, NoisyOraclePolicy, Task, rollout
from gym_dialogue.wording import derive
from gym_virl.prompts import OWN, Wording, load_wording, read_wording

FOREIGN = replace(
    OWN,
    prompt="\n[Walk]\n<<instruction>>\n[Actions]\n<<moves>>\n\n[Log]\n<<history>>O_<<number>>: "
    "<<observation>>\nA_<<number>>: \n\n[Form]\nJSON {braces}\n",
    image_prompt=None,
    moves={
        "absolute": "forward(), stop() or\nturn_direction(x): one of 8, ['north', 'northeast', "
        "'east', 'southeast', 'south', 'southwest', 'west', 'northwest'].",
        "relative": "forward(), stop() or\nturn_direction(x): one of 4, ['left', 'right', "
        "'slightly left', 'slightly right'].",
    },
    steps={
        "turn": "Face <<relative>> (<<compass>>).",
        "first_turn": "First, face <<relative>> (<<compass>>).",
        "forward": "Go on to a crossing.",
        "forward_sight": "Go on to a crossing where <<sight>>.",
        "arrive": "Go on to the goal.",
        "arrive_sight": "Go on to the goal where <<sight>>.",
    },
    reply_step="<<step>>",
    nothing={
        "start": "Nothing to see here",
        "between": "Nothing to see around",
        "intersection": "Nothing to see",
        "destination": "Nothing to see",
    },
    crossing={"at": "You see an intersection", "away": ""},
    observation="<<sight>>; <<crossing>>",
    reply='\n{\n  "current observation": "<<observation>>",\n  "current instruction": "<<step>>",\n'
    '  "action": "<<action>>",\n}\n',
    feedback={
        "missed_intersection": "No, there is a crossing {{here}}.",
        "imagined_intersection": "No, there is no crossing {{here}}.",
        "wrong_move": "No, another way {{here}}.",
        "unreadable": "No, another way {{here}}.",
    },
)


def save(tmp_path, wording):
    path = tmp_path / "wording.json"
    data = wording.to_json() if isinstance(wording, Wording) else wording
    path.write_text(json.dumps(data))
    return str(path)


def sft_data(tmp_path, wording, episodes=40, **kwargs):
    """SFT data in LLaVA form, worded so, with mistakes and corrections."""
    env = gymnasium.make(
        gym_virl.ENV_ID,
        prompt_file=save(tmp_path, wording),
        on_failure="go_on",
        max_legs=4,
        **kwargs,
    )
    items = []
    tasks = [Task(seed, (seed,)) for seed in range(episodes)]
    for episode in rollout([env], NoisyOraclePolicy(0.3), tasks):
        for dialogue in episode.dialogues:
            turns = [
                {"from": "human" if m.role == "user" else "gpt", "value": m.text}
                for m in dialogue.messages
            ]
            turns = turns[: len(turns) // 2 * 2]
            last = episode.turns[episode.turns_of(episode.dialogues.index(dialogue))[-1]]
            if last.is_right:
                items.append({"conversations": turns, "image": None})
    path = tmp_path / "data.json"
    path.write_text(json.dumps(items))
    return path


def test_a_wording_comes_back_from_data(tmp_path):
    data, lines = derive(sft_data(tmp_path, FOREIGN), "virl_l")
    assert "prompt: explains 100.0 % of the dialogues" in lines
    again = read_wording(data, "found")
    here, there = (
        gymnasium.make(gym_virl.ENV_ID, prompt_file=save(directory, w), drop_rate=0.3)
        for directory, w in ((tmp_path, FOREIGN), (tmp_path.joinpath("b"), again))
        if directory.mkdir(exist_ok=True) is None
    )
    for seed in range(100, 120):
        (obs, _), (other, _) = (env.reset(seed=seed) for env in (here, there))
        ended = False
        while not ended:
            assert obs["text"] == other["text"]
            replies = [env.unwrapped.oracle_reply() for env in (here, there)]
            assert replies[0] == replies[1]
            for wrong in ('{"current observation": "an intersection"}', '{"action": "stop()"}'):
                verdicts = [env.unwrapped._judge(wrong) for env in (here, there)]
                assert verdicts[0].is_right or verdicts[0].feedback == verdicts[1].feedback
            obs, _, ended, *_ = here.step(replies[0])
            other, *_ = there.step(replies[1])


def test_relative_moves_are_worded_after_the_absolute_ones_where_data_lacks_them(tmp_path):
    data, lines = derive(sft_data(tmp_path, FOREIGN), "virl_l")
    assert "moves: no dialogue has relative ones; worded after the absolute ones" in lines
    assert read_wording(data, "w").moves == FOREIGN.moves
    data, _ = derive(sft_data(tmp_path, FOREIGN, absolute_action=False), "virl_l")
    assert read_wording(data, "w").moves == FOREIGN.moves


@pytest.mark.parametrize(
    ("pattern", "put"),
    [
        ("where The destination", "where the destination"),  # not what a sight would be
        (r"(?m)^(O_\d+): (.*)$", r'\1: "\2"'),  # a sight with the quote that opens the line
        (r"(?m)^(A_\d+: turn_direction)\((.+)\)$", r"\1('\2')"),
        ("\n", "\r\n"),
    ],
)
def test_data_that_the_environment_would_not_write_so_is_refused(tmp_path, pattern, put):
    path = sft_data(tmp_path, FOREIGN, 8)
    items = json.loads(path.read_text())
    for item in items:
        for turn in item["conversations"]:
            turn["value"] = re.sub(pattern, put, turn["value"])
    path.write_text(json.dumps(items))
    with pytest.raises(InputError, match=r"the most frequent prompt explains [0-4]?\d\.\d % of"):
        derive(path, "virl_l")


def test_texts_that_the_data_does_not_have_are_told(tmp_path):
    path = sft_data(tmp_path, FOREIGN, 20)
    lines = derive(path, "virl_l")[1]
    assert not any(line.startswith("observations: ") and "intersection" in line for line in lines)
    items = json.loads(path.read_text())
    bare = ("Nothing to see; You see", "crossing.")
    full = [i for i in items if not any(b in i["conversations"][0]["value"] for b in bare)]
    assert len(full) > 5
    path.write_text(json.dumps(full))
    data, lines = derive(path, "virl_l")
    assert any(
        line.startswith("observations: none without a landmark was met at intersection")
        and line.endswith("its text is taken from another place")
        for line in lines
    )
    assert (
        "steps: no move of the kind forward is without a landmark; worded after those with one"
        in lines
    )
    assert read_wording(data, "w").steps["forward"] == "Go on to a crossing."


def test_data_of_another_task_is_refused(tmp_path):
    path = tmp_path / "data.json"
    turns = [{"from": "human", "value": "Make 24."}, {"from": "gpt", "value": "{}"}]
    path.write_text(json.dumps([{"conversations": turns}]))
    with pytest.raises(InputError, match=r"data\.json: only 0 of 1 dialogues have a prompt"):
        derive(path, "virl_l")


def test_a_file_is_read_as_it_was_written(tmp_path):
    for wording in (OWN, FOREIGN):
        assert load_wording(save(tmp_path, wording)) == wording


def test_values_are_escaped_where_a_reply_is_json():
    env = gymnasium.make(gym_virl.ENV_ID).unwrapped
    env.reset(seed=0)
    position = replace(env.position, sight='The "Nook" is on your left')
    reply = OWN.format_reply(position, env.steps, "stop()")
    assert json.loads(reply)["current observation"].startswith('The "Nook"')
    assert FOREIGN.format_reply(position, env.steps, "stop()").count('"Nook"') == 1


def test_feedback_may_repeat_the_action(tmp_path):
    feedback = {"wrong_move": "Not <<action>> ({<<used>>}, <<remaining>> left)"}
    path = save(tmp_path, replace(OWN, feedback=feedback))
    env = gymnasium.make(gym_virl.ENV_ID, prompt_file=path).unwrapped
    env.reset(seed=0)
    obs, *_ = env.step('{"action": "stop()"}')
    assert obs["text"] == "Not stop() ({1}, 1 left)"


def without(key):
    data = OWN.to_json()
    del data[key]
    return data


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"format": "x"}, "key format: must be 'gym_virl wording 1'"),
        (without("prompt"), "key prompt: is missing"),
        (without("steps"), "key steps: is missing"),
        (OWN.to_json() | {"extra": ""}, "key extra: is unknown; must be one of prompt"),
        (OWN.to_json() | {"prompt": 3}, "key prompt: must be a string, or a list of lines"),
        (OWN.to_json() | {"prompt": "<<moves>>"}, "key prompt: does not have <<instruction>>"),
        (
            OWN.to_json() | {"prompt": "<<history>><<instruction>><<moves>><<observation>>"},
            "<<instruction>> must stand before <<history>>",
        ),
        (
            OWN.to_json() | {"image_prompt": OWN.prompt},
            "key image_prompt: unknown placeholder <<observation>>",
        ),
        (
            OWN.to_json() | {"moves": {"absolute": "x"}},
            "key moves: must be an object with the keys",
        ),
        (OWN.to_json() | {"moves": dict.fromkeys(("absolute", "relative"), "x")}, "says the same"),
        (OWN.to_json() | {"steps": {"turn": "<<relative>>"}}, "key steps: key forward is missing"),
        (
            OWN.to_json() | {"steps": dict(OWN.steps) | {"turn": "<<relative>>"}},
            "key steps.turn: does not have <<compass>>",
        ),
        (
            OWN.to_json() | {"steps": dict(OWN.steps) | {"forward": "<<sight>>"}},
            "key steps.forward: unknown placeholder <<sight>>; must be one of none",
        ),
        (OWN.to_json() | {"crossing": {"at": "corner", "away": ""}}, "by that word, and only `at`"),
        (OWN.to_json() | {"reply": "<<action>>"}, "the verifier finds no action"),
        (OWN.to_json() | {"feedback": {"bad": ""}}, "must be an object with keys of right"),
    ],
)
def test_a_bad_file_is_named(tmp_path, data, line):
    path = save(tmp_path, data)
    with pytest.raises(InputError, match=r"wording\.json") as error:
        gymnasium.make(gym_virl.ENV_ID, prompt_file=path)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_what_a_wording_cannot_serve_is_said(tmp_path):
    path = save(tmp_path, FOREIGN)
    with pytest.raises(InputError, match="has no image_prompt"):
        gymnasium.make(gym_virl.ENV_ID, prompt_file=path, language_only=False, resolution=16)
    with pytest.raises(InputError, match="has no part in prompt_file"):
        gymnasium.make(gym_virl.ENV_ID, prompt_file=path, wording="diverse")
