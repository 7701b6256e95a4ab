"""Files of a run that are damaged: one line each, or the fallback that there is."""

import json
import shutil

import pytest

from evaluation import report
from evaluation.play import EvalConfig, play_suites, read_records, write_records
from evaluation.records import records_to_json
from evaluation.seeds import read_results
from evaluation.study.analysis import own_flops
from evaluation.study.layout import Place
from evaluation.study.run import start_of
from evaluation.study.steps import Steps
from evaluation.suites import load_task
from gym_command.run_dir import RunDir
from gym_dialogue import InputError, OraclePolicy

TURN = {
    **{"checkpoint": "a", "decoding": "sampled", "suite": "id", "episode": 0, "turn": 0},
    **{"env_seed": 1, "puzzle": "p", "is_success": True, "dialogue": 0, "reply": "x"},
    **{"reward": 1, "outcomes": ["X"], "feedback": "", "is_right": True, "tokens": 3},
}
BROKEN_TURNS = [
    *("[]", "{}", "x", '{"checkpoint": []}'),
    *(json.dumps(TURN | change) for change in ({"outcomes": []}, {"reply": None}, {"suite": 3})),
]
CONFIG = EvalConfig(episodes=3, decoding=["sampled"], verify_iter=2)


@pytest.fixture(scope="module")
def suites():
    return load_task("gp_l").suites[:2]


@pytest.fixture(scope="module")
def records(suites):
    return play_suites({"sampled": OraclePolicy()}, suites, CONFIG, show_progress=False)


@pytest.mark.parametrize("line", ["[]", "3", "null", "{}", "x", '{"update": "1"}', '"\u2028"'])
def test_line_of_metrics_that_is_no_record_is_named(line, tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text(f'{{"update": 1, "kl": 0.1}}\n{line}\n{{"update": 2}}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: is no record of an update"):
        RunDir(tmp_path).read_metrics()
    file.unlink()
    file.mkdir()
    assert RunDir(tmp_path).read_metrics() == []


def test_evaluation_is_read_if_it_is_of_the_same_episodes(records, suites, tmp_path, capsys):
    file = tmp_path / "update-000000.json"
    assert read_records(file, suites, CONFIG) is None
    assert capsys.readouterr().err == ""
    write_records(file, records)
    assert read_records(file, suites, CONFIG) == records
    for other in (
        {"episodes": 4},
        {"seed": 1},
        {"decoding": ["sampled", "greedy"]},
    ):
        assert read_records(file, suites, EvalConfig(**(vars(CONFIG) | other))) is None
        assert "of other episodes: played again" in capsys.readouterr().err
    assert read_records(file, suites[:1], CONFIG) is None


def _changed(records, **change):
    """A file of the records in which one episode is changed."""
    copy = records_to_json(records)
    copy["sampled"]["id"][1] |= change
    return json.dumps(copy).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda records: b"",
        lambda records: b"\xff",
        lambda records: _changed(records)[:-5],
        lambda records: b"[]",
        lambda records: b'{"sampled": []}',
        lambda records: b'{"sampled": {"id": [3]}}',
        lambda records: _changed(records, turns=[]),
        lambda records: _changed(records, turns=[{"reply": "x"}]),
        lambda records: _changed(records, is_success=None),
    ],
)
def test_damaged_evaluation_is_played_again(damage, records, suites, tmp_path, capsys):
    file = tmp_path / "update-000000.json"
    file.write_bytes(damage(records))
    assert read_records(file, suites, CONFIG) is None
    assert "played again" in capsys.readouterr().err
    file.unlink()
    file.mkdir()
    assert read_records(file, suites, CONFIG) is None


@pytest.mark.parametrize(
    "line", [*BROKEN_TURNS, json.dumps(TURN | {"outcomes": []}), json.dumps(TURN | {"reply": None})]
)
def test_line_of_turns_that_is_none_is_named(line, records, suites, tmp_path, capsys):
    report.write(tmp_path, {"a": records}, suites, 2)
    read_results(tmp_path)
    file = tmp_path / "turns.jsonl"
    lines = file.read_text().split("\n")
    file.write_text("\n".join([lines[0], line, *lines[1:]]))
    with pytest.raises(InputError, match=r"turns\.jsonl, line 2: is no turn of an evaluation"):
        read_results(tmp_path)


def test_notes_of_a_study_that_are_damaged_are_named_or_made_again(tmp_path):
    account = tmp_path / "steps.jsonl"
    account.write_text('{"kind": "a", "seconds": 2}\n[]\n{"kind": "a"}\n{"kind": "a", "sec')
    assert Steps(account, ["a"]).took == {"a": [2.0]}
    for note in ("", "[]", "{}", '{"path": 3}'):
        (tmp_path / "start.json").write_text(note)
        assert start_of(tmp_path) is None
    place = Place(tmp_path, 0, "own")
    note = place.directory / "own" / "own.json"
    note.parent.mkdir(parents=True)
    for text in ("", "[]", "{}", '{"flops": "x"}'):
        note.write_text(text)
        with pytest.raises(InputError, match=r"own\.json"):
            own_flops(place)
    shutil.rmtree(note.parent)
    assert own_flops(place) == 0
