"""Metrics, intervals, suites and reports, with scripted policies."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from evaluation import report
from evaluation.evaluate import CommandConfig, _settings_file
from evaluation.html import leave_report
from evaluation.metrics import Resampled, paired_difference, summarize
from evaluation.play import (
    EvalConfig,
    check_eval_config,
    eval_flags,
    evaluation_tasks,
    model_policies,
    play_suites,
)
from evaluation.records import EpisodeRecord, TurnRecord
from evaluation.replay import compare
from evaluation.seeds import format_across, read_results
from evaluation.study.measure import MeasureConfig
from evaluation.suites import CONFIG_DIR, load_task, playable, with_options
from gym_command.command import parse_config
from gym_dialogue import (
    InputError,
    NoisyOraclePolicy,
    NothingToPlayError,
    OraclePolicy,
    Policy,
    RandomPolicy,
    Reply,
)
from gym_dialogue.make import make_envs
from gym_dialogue.messages import BEYOND_CONTEXT
from gym_policy import Renderer
from gym_virl.city import City
from gym_virl.routes import write_routes
from sft.tiny import build_model, build_tokenizer


def _record(puzzle, right, env_seed=0):
    turns = [TurnRecord(0, "x", 1.0, ("X",), "", is_right, 1) for is_right in right]
    return EpisodeRecord(env_seed, puzzle, any(right), turns)


def test_metrics_by_hand():
    records = [
        _record("a", [True]),
        _record("b", [False, True]),
        _record("c", [False, False, False]),
        _record("d", [False, False, True]),
    ]
    actual = {k: v["value"] for k, v in summarize(records, 3)["metrics"].items()}
    assert actual == {
        "first_reply": 0.25,
        "within_1": 0.25,
        "within_2": 0.5,
        "within_3": 0.75,
        "episode_success": 0.75,
    }


def test_positions_count_where_an_episode_has_several_dialogues():
    record = _record("a", [True, False, True])
    dialogues = zip(record.turns, [0, 1, 1], strict=True)
    record.turns = [replace(turn, dialogue=dialogue) for turn, dialogue in dialogues]
    actual = {k: v["value"] for k, v in summarize([record], 2)["metrics"].items()}
    assert actual == {"first_reply": 0.5, "within_1": 0.5, "within_2": 1.0, "episode_success": 1.0}


def test_recognition_is_of_the_first_reply_whatever_its_answer():
    records = [_record("a", [True]), _record("b", [False, True]), _record("c", [False])]
    for record, recognized in zip(records, ([True], [False, True], [True]), strict=True):
        values = zip(record.turns, recognized, strict=True)
        record.turns = [replace(turn, recognized=value) for turn, value in values]
    actual = summarize(records, 2)["metrics"]["recognition"]["value"]
    assert actual == pytest.approx(2 / 3, abs=1e-5)


def test_repeated_puzzles_widen_the_interval():
    rng = np.random.default_rng(0)
    right = rng.random(40) < 0.5
    apart = [_record(f"{i}-{k}", [right[i]]) for i in range(40) for k in range(10)]
    clustered = [_record(str(i), [right[i]]) for i in range(40) for k in range(10)]

    def width(records):
        interval = Resampled(records, "first_reply").interval()
        return interval.high - interval.low

    assert width(clustered) > 2.5 * width(apart)
    # Independent episodes: the width of the normal approximation, 2 * 1.96 * sqrt(p q / n).
    assert width(apart) == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.15)


def test_intervals_cover_the_truth():
    covered = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        rate = rng.beta(2, 2, size=60)  # a rate for each puzzle, 5 episodes on each
        records = [_record(str(i), [rng.random() < rate[i]]) for i in range(60) for _ in range(5)]
        interval = Resampled(records, "first_reply").interval()
        covered += interval.low <= 0.5 <= interval.high
    assert covered / 200 == pytest.approx(0.95, abs=0.05)


def test_pairing_narrows_a_difference():
    rng = np.random.default_rng(0)
    before = [_record(str(i), [rng.random() < 0.5], i) for i in range(200)]
    after = [
        _record(r.puzzle, [r.turns[0].is_right or rng.random() < 0.1], r.env_seed) for r in before
    ]
    interval = paired_difference(after, before, "first_reply")
    assert 0 < interval.low < interval.value < interval.high < 0.12
    with pytest.raises(ValueError, match="not of the same episodes"):
        paired_difference(after, before[::-1], "first_reply")


@pytest.fixture(scope="module")
def played():
    task = load_task("gp_l")
    config = EvalConfig(episodes=30, verify_iter=3, batch_size=16)
    policies = {
        "noisy": NoisyOraclePolicy(0.5),
        "oracle": OraclePolicy(),
        "random": RandomPolicy(),
    }
    results = {
        name: play_suites({"sampled": policy}, task.suites, config, show_progress=False)
        for name, policy in policies.items()
    }
    return task, results


def test_scripted_policies_score_what_they_must(played):
    task, results = played
    for suite in task.suites:
        scores = {
            name: Resampled(records["sampled"][suite.name], "first_reply").value
            for name, records in results.items()
        }
        assert scores["oracle"] == 1
        assert 0.2 < scores["noisy"] < 0.8
        assert scores["random"] < 0.2


def test_every_policy_meets_the_same_episodes(played):
    _, results = played
    seeds = [
        [[r.env_seed for r in records] for records in by["sampled"].values()]
        for by in results.values()
    ]
    assert seeds[0] == seeds[1] == seeds[2]
    puzzles = [r.puzzle for r in results["oracle"]["sampled"]["id"]]
    assert puzzles == [r.puzzle for r in results["noisy"]["sampled"]["id"]]
    assert len(set(puzzles)) > 20


def test_report_files(played, tmp_path, capsys):
    task, results = played
    report.write(tmp_path, results, task.suites, 3)
    table = (tmp_path / "table.txt").read_text()
    assert "oracle - noisy" in table
    assert re.search(r"100\.0 \[[6-9]\d\.\d, 100\.0\]", table)  # Wilson's, of so few puzzles
    assert table.strip() in capsys.readouterr().out
    data = json.loads((tmp_path / "summary.json").read_text())
    assert data["checkpoints"]["oracle"]["sampled"]["id"]["metrics"]["first_reply"]["value"] == 1
    assert set(data["differences"]) == {"oracle", "random"}
    rows = [json.loads(line) for line in (tmp_path / "turns.jsonl").read_text().splitlines()]
    first = [r for r in rows if r["turn"] == 0]
    assert len(first) == 3 * len(task.suites) * 30
    assert (tmp_path / "success.png").stat().st_size > 10000


class _Says(Policy):
    """Answers the dialogues of an episode with these replies in turn."""

    def __init__(self, *replies):
        self.replies = replies

    def act(self, dialogues):
        return [self.replies[d.num_replies % len(self.replies)] for d in dialogues]


ANSWER = '{"formula": "1"}'
CUT = Reply("hm, let me see", finish="length")
EMPTY = Reply(" ", finish="stop")


def _said(suites, **policies):
    config = EvalConfig(episodes=3, verify_iter=4, batch_size=3)
    return {
        label: play_suites({"greedy": policy}, suites, config, show_progress=False)
        for label, policy in policies.items()
    }


def test_replies_without_an_answer_are_counted(tmp_path):
    suites = load_task("gp_l").suites[:2]
    faulty = _Says(CUT, EMPTY, Reply(f"<think>{ANSWER}</think>no"), Reply(ANSWER, finish="length"))
    results = _said(suites, fine=OraclePolicy(), faulty=faulty)
    report.write(tmp_path, results, suites, 4)
    data = json.loads((tmp_path / "summary.json").read_text())
    counts = [data["checkpoints"][x]["greedy"]["id"]["replies"] for x in ("fine", "faulty")]
    assert counts == [
        {"replies": 3, "unread": 0, "cut": 0, "empty": 0, "beyond_context": 0},
        {"replies": 12, "unread": 9, "cut": 6, "empty": 3, "beyond_context": 0},
    ]
    table = (tmp_path / "table.txt").read_text()
    heading = "replies that are unread (no answer found) / cut at the token limit / empty, greedy"
    _, block = table.split(heading + "\n")
    assert re.search(r" 0 / 0 / 0 of 3 +9 / 6 / 3 of 12$", block.splitlines()[0])
    assert data["hints"] == table.splitlines()[-2:]
    assert data["hints"] == [
        "hint: faulty, greedy: 50 % of the replies were cut at the token limit: raise "
        "max_new_tokens",
        "hint: faulty, greedy: 25 % of the replies are empty: a model that thinks may have spent "
        "max_new_tokens on it (raise it), or have left its answer in reasoning_content (switch "
        "thinking off)",
    ]
    (tmp_path / "config.yaml").write_text("task: gp_l\n")
    leave_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert heading.capitalize() in page
    assert "9 / 6 / 3 of 12" in page


@pytest.mark.parametrize(
    ("replies", "words"),
    [
        ([Reply("I give up", finish="stop")], "are whole and hold no answer in the form asked for"),
        ([Reply("", finish=BEYOND_CONTEXT)], "would not fit in the model's context: lower max_new"),
        ([EMPTY, *[Reply(ANSWER)] * 3], None),
    ],
)
def test_hint_is_for_what_is_frequent(replies, words, monkeypatch):
    monkeypatch.setattr(report, "MANY", 0.3)
    hints = report.hints(_said(load_task("virl_l").suites[:1], some=_Says(*replies)))
    hints += report.hints(_said(load_task("gp_l").suites[:1], some=_Says(*replies)))
    if words is None:
        assert not hints[1:]  # a route is ended by its first replies
    else:
        assert [words in hint for hint in hints] == [True, True]


def test_table_where_every_reply_is_read_has_no_counts():
    suites = load_task("virl_l").suites[:1]
    results = _said(suites, oracle=OraclePolicy())
    assert "unread" not in report.format_table(results, suites, 4)
    assert report.hints(results) == []


def test_runs_with_different_seeds_are_averaged(played, tmp_path):
    task, results = played
    pairs = [("random", "oracle"), ("random", "noisy")]
    for name, (start, end) in zip("ab", pairs, strict=True):
        (tmp_path / name).mkdir()
        chosen = {"update-0": results[start], "update-9": results[end]}
        report.write(tmp_path / name, chosen, task.suites, 3)
    table = format_across([tmp_path / "a", tmp_path / "b"])
    rates = [
        Resampled(results[name]["sampled"]["id"], "first_reply").value
        for name in ("oracle", "noisy", "random")
    ]
    line = next(line for line in table.splitlines() if "ID (faces 10)" in line)
    assert f"{50 * (rates[0] + rates[1]):.1f} [" in line
    assert f"{50 * (rates[0] + rates[1] - 2 * rates[2]):+.1f} [" in line
    with pytest.raises(InputError, match=r"summary\.json"):
        format_across([tmp_path])


def test_suites_of_gp_l_deal_what_they_say():
    task = load_task("gp_l")
    values = {"rule_ood": {11, 12, 13}, "faces_5": {5}, "faces_7": {7}, "faces_12": {12}}
    for number, suite in enumerate(task.suites):
        (env,) = make_envs(suite.env, 1)
        for episode in evaluation_tasks(0, number, 20):
            _, info = env.reset(seed=episode.env_seed)
            cards = zip(info["plain_cards"], info["numbers"], strict=True)
            faces = {value for card, value in cards if card in "JQK"}
            assert faces <= values.get(suite.name, {10})
            assert faces or suite.name in ("id", "heldout")


def test_suites_of_gp_vl_show_what_they_say():
    task = load_task("gp_vl")
    for number, suite in enumerate(task.suites):
        (env,) = make_envs(suite.env, 1)
        tables = set()
        for episode in evaluation_tasks(0, number, 12):
            obs, info = env.reset(seed=episode.env_seed)
            assert obs["image"].shape == (84, 84, 3)
            red = {"hearts", "diamonds"}
            is_red = suite.name in ("visual_ood", "recognition_red")
            assert set(info["suits"]) <= (red if is_red else {"spades", "clubs"})
            tables.add(tuple(obs["image"][0, 0]))
            assert (info["answer_field"] == "cards") == suite.name.startswith("recognition")
        assert (len(tables) > 1) == (suite.name == "table")
    assert {s.env.kwargs["resolution"] for s in load_task("gp_vl_1200").suites} == {1200}


def test_suites_of_navigation_walk_where_they_say():
    task = load_task("virl_l")
    for number, suite in enumerate(task.suites):
        (env,) = make_envs(suite.env, 1)
        walked = {env.reset(seed=e.env_seed)[1]["puzzle"] for e in evaluation_tasks(0, number, 8)}
        cities = {route.partition("-")[0] for route in walked}
        assert ("new_york" in cities) == (suite.shift != "visual")
        assert len(cities) > 1 or suite.shift != "visual"
        heldout = {env.unwrapped.atlas[n][1].is_heldout for n in range(100)}
        assert heldout == {False, True}
        assert env.unwrapped.route.is_heldout or suite.name != "heldout"
        assert not env.unwrapped.route.is_heldout or suite.shift != "rule"
        assert len(env.unwrapped.atlas) >= 200
    assert {suite.shift for suite in task.suites} == {"none", "puzzle", "rule", "visual"}
    for words, views in zip(task.suites, load_task("virl_vl").suites, strict=True):
        sees = {"language_only": False, "resolution": 43}
        assert views.env.kwargs == words.env.kwargs | sees


@pytest.fixture
def few_routes(tmp_path):
    """Arguments of the suites as the paper's, in words, on two routes that are not held out."""
    city = City("london")
    routes = [r for r in map(city.route, range(4)) if not r.is_heldout][:2]
    write_routes(tmp_path / "few.json", routes, [""] * 2)
    paths = {"route_info_path": str(tmp_path / "few.json")}
    return paths | {"relocation": False, "panorama_dir": None, "gps_to_pano_path": None}


def test_optional_suite_with_nothing_to_play_is_left_out_with_one_line(few_routes, capsys):
    suites = with_options(load_task("virl_l_paper").suites, few_routes)
    assert [suite.name for suite in suites] == ["id", "rule_ood", "mini", "heldout"]
    kept = playable(suites, None)
    assert [suite.name for suite in kept] == ["id", "rule_ood", "mini"]
    assert capsys.readouterr().out == "suite heldout: left out: none of 2 routes is held out\n"
    for each_once in (False, True):  # what is asked for by name is an error, as before
        config = EvalConfig(episodes=2, each_once=each_once, verify_iter=2)
        records = play_suites({"greedy": OraclePolicy()}, kept, config, show_progress=False)
        assert list(records["greedy"]) == ["id", "rule_ood", "mini"]
        with pytest.raises(NothingToPlayError, match="none of 2 routes is held out"):
            play_suites({"greedy": OraclePolicy()}, suites, config, show_progress=False)


@pytest.mark.parametrize("task", ["gp_l_paper", "virl_l"])
def test_suites_with_something_to_play_are_all_kept(task, capsys):
    suites = load_task(task).suites
    assert playable(suites, None) == suites
    assert capsys.readouterr().out == ""


def test_optional_suite_of_hands_that_no_draw_makes_is_left_out(capsys):
    suites = with_options(load_task("gp_l_paper").suites, {"target_points": 989})
    assert "heldout" not in [suite.name for suite in playable(suites, None)]
    assert "suite heldout: left out: no hand of 4 cards that makes 989" in capsys.readouterr().out


def test_table_of_what_is_seen_has_recognition(tmp_path):
    task = load_task("gp_vl")
    config = EvalConfig(episodes=4, verify_iter=2, batch_size=4)
    suites = [s for s in task.suites if s.name in ("id", "recognition")]
    results = {
        name: play_suites({"sampled": policy}, suites, config, show_progress=False)
        for name, policy in (("random", RandomPolicy()), ("oracle", OraclePolicy()))
    }
    table = report.format_table(results, suites, 2)
    block = table.split("recognition in the first reply, sampled")[1].splitlines()
    assert "recognition only (black)" in block[2]
    assert " 0.0 [0.0, 49.0]" in block[2]  # a random reply names a card that is not there
    assert "100.0 [51.0, 100.0]" in block[2]


def test_training_and_evaluation_never_share_a_seed():
    config_tasks = evaluation_tasks(0, 0, 300) + evaluation_tasks(0, 1, 300)
    assert len({t.env_seed for t in config_tasks}) > 598
    assert len({t.sample_key for t in config_tasks}) == 600


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("task: x\n", "must list suites"),
        ("task: x\nsuites_of: gp_l\nsuites: [{name: a}]\n", "must list suites, or name"),
        ("task: x\nsuites_of: gp_vl_1200\n", "suites of its own"),
        ("task: x\nsuites_of: chess\n", "chess"),
        ("task: x\nsuites: [{env: {id: b}}]\n", "name"),
        ("task: x\nsuites: [{name: a, env: {id: b}}, {name: a, env: {id: b}}]\n", "same name"),
        ("task: x\nsuites: [{name: a, env: {id: b}, colour: red}]\n", "colour"),
        ("suites: [\n", "configuration"),
    ],
)
def test_task_files_that_are_wrong_are_named(text, word, tmp_path):
    file = tmp_path / "task.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=word):
        load_task(str(file))


def test_unknown_tasks_and_bad_numbers():
    with pytest.raises(InputError, match="gp_l"):
        load_task("chess")
    with pytest.raises(InputError, match="episodes"):
        check_eval_config(EvalConfig(episodes=0))
    with pytest.raises(InputError, match="decoding"):
        check_eval_config(EvalConfig(decoding=[]))


def test_each_once_plays_all_puzzles_in_order():
    suites = with_options(load_task("gp_l_paper").suites, {"target_points": 23})
    config = EvalConfig(episodes=3, each_once=True, verify_iter=2, batch_size=100)
    policy = {"a": NoisyOraclePolicy(0.3)}
    actual = play_suites(policy, suites, config, show_progress=False)["a"]["rule_ood"]
    (env,) = make_envs(suites[1].env, 1)
    wanted = [options["numbers"] for options in env.unwrapped.each_once()]
    assert [r.options["numbers"] for r in actual] == wanted
    assert [r.puzzle for r in actual] == ["-".join(map(str, numbers)) for numbers in wanted]
    assert len(wanted) > 600
    assert all(max(numbers) > 10 for numbers in wanted)


def test_records_of_each_once_is_played_again(tmp_path):
    suites = load_task("virl_l").suites[:1]
    suites = with_options(suites, {"num_routes": 7, "split": "all"})
    config = EvalConfig(each_once=True, verify_iter=2)
    records = play_suites({"a": NoisyOraclePolicy(0.3)}, suites, config, show_progress=False)
    assert len({r.puzzle for r in records["a"]["id"]}) == 7
    report.write(tmp_path, {"x": records}, suites, 2)
    _, results = read_results(tmp_path)
    assert [r.options for r in results["x"]["a"]["id"]] == [{"route_idx": i} for i in range(7)]
    shown = compare(results, suites, 2, None, per_suite=7)
    assert len(shown) == 7
    assert not any(comparison.disagrees for comparison in shown)


def test_environment_without_a_list_says_so():
    suites = with_options(load_task("gp_l").suites[:1], {"face_rule": "random"})
    with pytest.raises(InputError, match="each_once: face_rule random"):
        play_suites({"a": OraclePolicy()}, suites, EvalConfig(each_once=True), show_progress=False)


def test_settings_go_through_flags_and_come_back():
    settings = EvalConfig(
        each_once=True, sampling="generation_config", top_p=0.9, decoding=["greedy"]
    )
    for config in (CommandConfig, MeasureConfig):
        assert parse_config(config, eval_flags(vars(settings))).eval == settings


def test_sampling_is_as_given_or_as_the_checkpoint_says():
    tokenizer = build_tokenizer(["1"])
    model = build_model(len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id, seed=0)

    def decoding(**settings):
        policies = model_policies(model, Renderer(tokenizer), EvalConfig(**settings))
        return [(p.decoding.temperature, p.decoding.top_p) for p in policies.values()]

    own = {"sampling": "generation_config", "decoding": ["sampled"]}
    model.generation_config.temperature = model.generation_config.top_p = None
    assert decoding(**own) == [(1.0, 1.0)]
    model.generation_config.temperature, model.generation_config.top_p = 0.6, 0.9
    assert decoding(**own) == [(0.6, 0.9)]
    assert decoding() == [(1.0, 1.0)] * 2
    assert decoding(temperature=0.2, top_p=0.5) == [(0.2, 0.5)] * 2
    model.generation_config.temperature = 0.0
    with pytest.raises(InputError, match=r"generation_config: temperature=0\.0"):
        decoding(**own)
    with pytest.raises(InputError, match=r"top_p=1\.5: must be above 0 and at most 1"):
        check_eval_config(EvalConfig(top_p=1.5))


@pytest.mark.parametrize(
    ("checkpoint", "task"),
    [
        ("tianzhechu/GP-L-Init", "gp_l"),
        ("tianzhechu/GP-L-RL20", "gp_l"),
        ("/hub/models--tianzhechu--VIRL-VL-Init/snapshots/5d", "virl_vl"),
        ("runs/gp_l/my-VIRL-L.5", "virl_l"),
        ("runs/sft-gp_vl-paper-seed0/checkpoints/update-000400", "gp_vl"),
    ],
)
def test_papers_settings_follow_the_checkpoints_name(checkpoint, task):
    config = CommandConfig(checkpoints=[checkpoint], settings="paper")
    assert _settings_file(config, checkpoint) == CONFIG_DIR / "paper" / f"{task}.yaml"


@pytest.mark.parametrize(
    ("options", "checkpoint", "word"),
    [
        ({}, "owner/mygp_large", "say which with --task=gp_l|gp_vl|virl_l|virl_vl"),
        ({}, "owner/model", "owner/model does not tell its task by its name"),
        ({"task": "chess"}, "owner/GP-L", "paper is for gp_l, gp_vl, virl_l, virl_vl"),
        ({"settings": "thesis"}, "owner/GP-L", "settings=thesis: must be one of paper"),
    ],
)
def test_settings_that_cannot_be_told(options, checkpoint, word):
    config = CommandConfig(**{"checkpoints": [checkpoint], "settings": "paper"} | options)
    with pytest.raises(InputError, match=re.escape(word)):
        _settings_file(config, checkpoint)


def test_number_of_replies_is_that_of_the_whole_evaluation():
    with pytest.raises(InputError, match=r"--eval\.verify_iter"):
        with_options(load_task("gp_l").suites, {"verify_iter": 3})
