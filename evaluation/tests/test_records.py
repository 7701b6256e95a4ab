"""Records of turns and episodes: what is written is what is read, old records included."""

import json

import pytest

from evaluation.metrics import metric_names, summarize
from evaluation.play import EvalConfig, play_suites
from evaluation.records import (
    EpisodeRecord,
    TurnReader,
    TurnRecord,
    records_from_json,
    records_to_json,
    turn_rows,
)
from evaluation.suites import load_task, with_options
from gym_dialogue import NoisyOraclePolicy

FIRST_KEPT = {
    **{"dialogue": 0, "reply": " ", "reward": -1, "outcome": "X", "outcomes": ["X", "Y"]},
    **{"feedback": "No.", "is_right": False, "tokens": 3},
}
"""A turn with the keys that there have been from the beginning."""


@pytest.fixture(scope="module", params=["gp_vl", "virl_l"])
def records(request):
    suites = load_task(request.param).suites[:2]
    config = EvalConfig(episodes=3, verify_iter=2, batch_size=3)
    if request.param == "virl_l":
        suites = with_options(suites, {"num_routes": 40})
        config.each_once = True
    policies = {"sampled": NoisyOraclePolicy(0.5), "greedy": NoisyOraclePolicy(0.2)}
    return play_suites(policies, suites, config, show_progress=False)


def test_records_come_back_from_their_file(records):
    assert records_from_json(json.loads(json.dumps(records_to_json(records)))) == records


def test_turns_come_back_from_their_lines_in_any_order_of_suites(records):
    results = {"a": records, "b/<c>": records}
    rows = [json.loads(json.dumps(row)) for row in turn_rows(results)]
    place = ["checkpoint", "decoding", "suite", "episode", "turn"]
    assert all(list(row)[:5] == place for row in rows)
    reader = TurnReader()
    for row in sorted(rows, key=lambda row: (row["turn"], -row["episode"])):
        reader.add(row)
    assert reader.results() == results


def test_turn_from_before_later_keys_is_read():
    turn = TurnRecord.from_json(FIRST_KEPT)
    assert (turn.outcome, turn.kind, turn.finish) == ("X", "", "")
    assert turn.recognized is turn.is_read is None
    assert TurnRecord.from_json(turn.to_json()) == turn
    episode = {"env_seed": 1, "puzzle": "p", "is_success": False, "turns": [FIRST_KEPT] * 2}
    record = EpisodeRecord.from_json(episode)
    assert list(record.to_json()) == list(episode)
    assert metric_names([record], 1) == ["first_reply", "within_1", "episode_success"]
    assert summarize([record], 1)["replies"] == {
        **{"replies": 2, "unread": 0, "cut": 0, "empty": 2, "beyond_context": 0}
    }


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"dialogue": True}, "dialogue=True: must be of type int"),
        ({"reply": None}, "reply=None: must be of type str"),
        ({"outcomes": []}, "at least one"),
        ({"outcomes": [3]}, "list of names"),
        ({"is_right": 1}, "is_right=1: must be of type bool"),
        ({"recognized": "yes"}, "recognized='yes'"),
    ],
)
def test_turn_that_is_none_is_refused(change, word):
    with pytest.raises(ValueError, match=word):
        TurnRecord.from_json(FIRST_KEPT | change)
