"""Legends: what is written for each move, in prompts, in replies and to the verifier."""

import json

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import gym_virl
from gym_dialogue import InputError, NoisyOraclePolicy, OraclePolicy, Task, rollout
from gym_virl.legends import (
    NAMED_LEGENDS,
    PLAIN_WORDS,
    Legend,
    moves_of,
    named_legend,
    random_legend,
    read_plain_words,
)
from gym_virl.prompts import OWN, OWN_LEGEND, load_wording
from gym_virl.rail import Position
from gym_virl.verifier import verify
from sft.tiny import build_tokenizer

RULES = pytest.mark.parametrize("absolute", [True, False])


def make(**kwargs):
    return gymnasium.make(gym_virl.ENV_ID, max_legs=3, **kwargs)


def lines_of(prompt):
    """{plain words: written name} of the legend in a prompt."""
    block = prompt.partition("How each move is written:\n")[2].partition("\nSo far:")[0]
    return dict(line.split(": ") for line in block.split("\n"))


def _lines(legend):
    return frozenset(zip(legend.moves, legend.names, strict=True))


@RULES
def test_named_legends_share_no_line(absolute):
    legends = [named_legend(name, absolute) for name in NAMED_LEGENDS]
    for legend in legends:
        assert sorted(legend.names) == sorted(legend.moves) == sorted(moves_of(absolute))
    for move in moves_of(absolute):
        assert len({legend.write(move) for legend in legends}) == len(legends)
    usual = named_legend("usual", absolute)
    assert usual.names == usual.moves


@RULES
def test_random_legends_are_never_named_ones_and_have_each_line(absolute):
    rng = np.random.default_rng(0)
    drawn = [random_legend(rng, absolute) for _ in range(3000)]
    named = {_lines(named_legend(name, absolute)) for name in NAMED_LEGENDS}
    assert not named & set(map(_lines, drawn))
    pairs = {pair for legend in drawn for pair in _lines(legend)}
    assert len(pairs) == len(moves_of(absolute)) ** 2
    assert len(set(map(_lines, drawn))) > 700  # of 717 under the relative rule


def test_lines_of_random_legends_come_in_any_order():
    rng = np.random.default_rng(0)
    firsts = {random_legend(rng, absolute=True).moves[0] for _ in range(200)}
    assert firsts == set(moves_of(absolute=True))


@RULES
def test_a_legend_reads_what_it_writes(absolute):
    legend = random_legend(np.random.default_rng(1), absolute)
    for move in moves_of(absolute):
        assert legend.read(legend.write(move)) == move
    assert legend.read(None) is None
    other = set(moves_of(not absolute)) - set(moves_of(absolute))
    assert {legend.read(move) for move in other} == {None}


def test_plain_words_are_read_back():
    for move, words in PLAIN_WORDS.items():
        assert read_plain_words(f" {words.upper()} ") == move
    assert read_plain_words("face up") is None
    assert read_plain_words(None) is None


@RULES
@pytest.mark.parametrize("legend", ["train", "unseen", "usual", "random"])
def test_the_oracle_walks_by_a_legend(legend, absolute):
    env = make(legend=legend, absolute_action=absolute)
    for seed in range(4):
        (episode,) = rollout([env], OraclePolicy(), [Task(seed, (seed,))])
        assert episode.is_success
        for turn in episode.turns:
            assert turn.checks == {"move_right": True, "legend_read": True}
        prompt = episode.dialogues[-1].messages[0].text
        lines = lines_of(prompt)
        for dialogue in episode.dialogues:
            reply = json.loads(dialogue.messages[1].text)
            assert lines[reply["move"]] == reply["action"]
            assert reply["action"] in prompt.partition("So far:")[2] or reply["move"] == "stop"
    check_env(env.unwrapped, skip_render_check=True)


def test_info_tells_what_was_written_and_what_it_means():
    env = make(legend="train")
    _, info = env.reset(seed=3)
    legend = env.unwrapped.legend
    assert info["gt_action"] == legend.write(info["gt_move"])
    right, wrong = info["gt_move"], "stop()"
    for named, action, is_right, checks in (
        (right, legend.write(right), True, {"move_right": True, "legend_read": True}),
        (right, legend.write(wrong), False, {"move_right": True, "legend_read": False}),
        (right, right, False, {"move_right": True, "legend_read": False}),
        (wrong, legend.write(wrong), False, {"move_right": False, "legend_read": True}),
        (wrong, legend.write(right), True, {"move_right": False, "legend_read": False}),
        (None, legend.write(right), True, {"move_right": False, "legend_read": False}),
    ):
        env.reset(seed=3)
        reply = {"action": action} | ({"move": PLAIN_WORDS[named]} if named else {})
        info = env.step(json.dumps(reply))[4]
        assert (info["is_right"], info["checks"]) == (is_right, checks)
        assert info["read_action"] == action
        assert info["read_move"] == legend.read(action)
        assert info["legend_read"] == (checks["legend_read"] if named else None)


def test_a_name_of_the_other_rule_is_a_wrong_move():
    ahead = Position("forward", (0.0, 0.0), 0.0, 1)
    legend = named_legend("train", True)
    for action, finding in (("turn_direction(left)", "wrong_move"), ("go", "unreadable")):
        verdict = verify(json.dumps({"action": action}), ahead, True, legend=legend)
        assert (verdict.info["finding"], verdict.info["read_move"]) == (finding, None)


def test_a_legend_changes_nothing_but_names():
    """The rail, the route, and the draws of scripted policies are those of the usual names."""
    plain, other = make(on_failure="go_on"), make(on_failure="go_on", legend="random")
    legends = set()
    for seed in range(6):
        task = [Task(seed, (seed,))]
        (a,), (b,) = (rollout([env], NoisyOraclePolicy(0.4), task) for env in (plain, other))
        legends.add(other.unwrapped.legend)
        assert [t.outcome for t in a.turns] == [t.outcome for t in b.turns]
        assert [t.is_right for t in a.turns] == [t.is_right for t in b.turns]
        for one, two in zip(a.turns, b.turns, strict=True):
            move = json.loads(one.reply.text)["action"]
            written = json.loads(two.reply.text)
            assert written["action"] == other.unwrapped.legend.write(move)
            assert written["move"] == PLAIN_WORDS[move]
    assert len(legends) == 6


def test_a_random_legend_is_of_the_seed():
    env = make(legend="random")
    first = env.reset(seed=5)[0]["text"]
    env.reset(seed=6)
    assert env.reset(seed=5)[0]["text"] == first
    assert env.reset()[0]["text"] != first


def test_a_legend_stands_with_images_too():
    env = make(legend="unseen", language_only=False, resolution=16)
    obs, info = env.reset(seed=1)
    assert lines_of(obs["text"])[PLAIN_WORDS[info["gt_move"]]] == info["gt_action"]


def test_lines_and_replies_share_tokens():
    """So that a tiny model can look up in the prompt what it is to write."""
    env = make(legend="train")
    prompt = env.reset(seed=0)[0]["text"]
    reply = env.unwrapped.oracle_reply()
    tokenizer = build_tokenizer([prompt, reply], env.unwrapped.token_patterns)
    written = [tokenizer.decode(i) for i in tokenizer(reply)["input_ids"]]
    shown = [tokenizer.decode(i) for i in tokenizer(prompt)["input_ids"]]
    fields = json.loads(reply)
    assert {fields["move"], fields["action"]} <= set(written) & set(shown)
    at = shown.index(fields["move"])
    assert shown[at + 1 : at + 3] == [": ", fields["action"]]


@pytest.mark.parametrize(
    ("kwargs", "line"),
    [
        ({"legend": "mine"}, "legend='mine': must be one of usual, train, unseen, random"),
        ({"legend": 3}, "legend=3: must be a name, or a mapping"),
        ({"legend": {"forward()": "stop()"}}, "does not fit absolute_action=True: must have the"),
        (
            {"legend": dict.fromkeys(moves_of(True), "stop()")},
            "does not fit absolute_action=True: must write forward(), stop(), turn_direction(north",
        ),
        (
            {"legend": named_legend("train", True), "absolute_action": False},
            "does not fit absolute_action=False: must have the keys forward(), stop(), turn_direct",
        ),
        ({"legend": "train", "wording": "diverse"}, "wording=diverse: does not go with a legend"),
    ],
)
def test_bad_legends_are_one_line(kwargs, line):
    with pytest.raises(InputError) as error:
        make(**kwargs)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mapping_is_a_legend():
    mapping = dict(zip(moves_of(False), reversed(moves_of(False)), strict=True))
    env = make(legend=mapping, absolute_action=False)
    assert env.unwrapped.legend == Legend(moves_of(False), moves_of(False)[::-1])
    (episode,) = rollout([env], OraclePolicy(), [Task(0, (0,))])
    assert episode.is_success


def test_a_prompt_file_may_have_a_place_for_the_legend(tmp_path):
    path = tmp_path / "wording.json"
    path.write_text(json.dumps(OWN_LEGEND.to_json()))
    assert load_wording(path) == OWN_LEGEND
    by_file, own = make(prompt_file=path, legend="train"), make(legend="train")
    assert by_file.reset(seed=2)[0]["text"] == own.reset(seed=2)[0]["text"]
    without = make(prompt_file=path).reset(seed=2)[0]["text"]
    assert "How each move is written:\nSo far:\n" in without  # nothing is left of its line
    path.write_text(json.dumps(OWN.to_json()))
    assert make(prompt_file=path).reset(seed=2)[0]["text"] == make().reset(seed=2)[0]["text"]
    with pytest.raises(InputError, match=r"key prompt of prompt_file .* has no <<legend>>"):
        make(prompt_file=path, legend="train")


def test_a_wording_whose_replies_name_no_move_has_no_checks(tmp_path):
    path = tmp_path / "wording.json"
    path.write_text(json.dumps(OWN_LEGEND.to_json() | {"reply": OWN.reply}))
    (episode,) = rollout([make(prompt_file=path, legend="train")], OraclePolicy(), [Task(0, (0,))])
    assert episode.is_success
    assert all(turn.checks == {} for turn in episode.turns)


def test_the_legend_must_stand_before_the_history(tmp_path):
    path = tmp_path / "wording.json"
    prompt = OWN.prompt.replace("Now: ", "<<legend>>\nNow: ")
    path.write_text(json.dumps(OWN.to_json() | {"prompt": prompt}))
    with pytest.raises(InputError, match="<<legend>> must stand before <<history>>"):
        load_wording(path)
