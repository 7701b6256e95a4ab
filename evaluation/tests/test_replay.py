"""Recorded replies, played again, are the same dialogues; what is not the same is said."""

import copy
import io
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from evaluation import replay
from evaluation.play import EvalConfig, evaluation_tasks, play_suites, suite_env
from evaluation.records import EpisodeRecord, TurnRecord, episode_record
from evaluation.replay import compare, encode_image
from evaluation.suites import load_task
from gym_dialogue import InputError, NoisyOraclePolicy, RecordedPolicy, Task, rollout
from gym_dialogue.make import make_envs


def _played(task, episodes=10, verify_iter=2):
    suites = [s for s in load_task(task).suites if s.name in ("id", "rule_ood")]
    config = EvalConfig(episodes=episodes, verify_iter=verify_iter, batch_size=episodes)
    results = {
        label: play_suites({"sampled": NoisyOraclePolicy(e)}, suites, config, show_progress=False)
        for label, e in (("start", 0.7), ("end", 0.3))
    }
    return suites, results


@pytest.mark.parametrize("task", ["gp_l", "gp_vl", "virl_l"])
def test_dialogues_come_back(task):
    suites, results = _played(task)
    actual = compare(results, suites, 2, None, per_suite=4)
    assert [c.suite for c in actual] == ["id"] * 4 + ["rule_ood"] * 4
    for comparison in actual:
        assert not comparison.disagrees
        number = next(i for i, s in enumerate(suites) if s.name == comparison.suite)
        seeded = evaluation_tasks(0, number, 10)[comparison.number]
        (env,) = make_envs(suite_env(suites[number], 2, None), 1)
        for label, played in comparison.played.items():
            record = results[label]["sampled"][comparison.suite][comparison.number]
            assert played.is_success == record.is_success
            assert played.total_reward == sum(turn.reward for turn in record.turns)
            policy = RecordedPolicy(turn.reply for turn in record.turns)
            (episode,) = rollout([env], policy, [seeded])
            assert episode_record(episode).turns == [replace(t, tokens=0) for t in record.turns]
            assert len(episode.dialogues) == len(played.dialogues)
            for dialogue, shown in zip(episode.dialogues, played.dialogues, strict=True):
                prompt, *replies = shown
                assert prompt.text == dialogue.messages[0].text
                assert [r.text for r in replies] == [m.text for m in dialogue.messages[1::2]]
                words = [m.text for m in dialogue.messages[2::2]]
                assert [r.feedback for r in replies][: len(words)] == words
                image = dialogue.messages[0].image
                assert (prompt.image is None) == (image is None)
                if image is not None:
                    size = PIL.Image.open(io.BytesIO(prompt.image)).size
                    assert size == (image.shape[1], image.shape[0])


@pytest.mark.parametrize("change", ["reward", "reply", "missing"])
def test_episode_that_comes_out_otherwise_is_shown_as_recorded(change):
    suites, results = _played("gp_l", episodes=3)
    results = copy.deepcopy(results)
    records = results["end"]["sampled"]["id"]
    for record in records:
        if change == "missing":
            record.turns = [replace(record.turns[0], is_right=False, reply="nothing")]
        else:
            value = {"reward": -99.0, "reply": "nothing"}[change]
            record.turns[0] = replace(record.turns[0], **{change: value})
    actual = [c for c in compare(results, suites, 2, None) if c.suite == "id"]
    assert len(actual) == 3
    for comparison, record in zip(actual, records, strict=True):
        assert comparison.disagrees
        (shown,) = comparison.played["end"].dialogues
        assert [words.role for words in shown] == ["assistant"] * len(record.turns)
        assert [words.reward for words in shown] == [t.reward for t in record.turns]
        assert comparison.played["start"].dialogues[0][0].role == "user"


def test_wording_other_than_recorded_is_noticed(tmp_path):
    import json

    from gym_cards.prompts import OWN

    wording = tmp_path / "wording.json"
    feedback = {"NO_SOLUTION": "No.", "CORRECT_SOLUTION": "Yes."}
    wording.write_text(json.dumps(OWN.to_json() | {"feedback": feedback}))
    suites, results = _played("gp_l", episodes=3)
    assert all(c.disagrees for c in compare(results, suites, 2, str(wording)))
    with pytest.raises(InputError):
        compare(results, suites, 2, str(tmp_path / "gone.json"))


def _record(won, reward):
    return EpisodeRecord(0, "p", won, [TurnRecord(0, "x", reward, ("X",), "", won, 1)])


def test_sample_has_some_of_every_kind():
    before = [_record(False, -1)] * 90 + [_record(True, 5)] * 10
    after = [_record(False, -1)] * 86 + [_record(True, 5)] * 4
    after += [_record(False, -1)] * 2 + [_record(True, 3)] + [_record(True, 5)] * 7
    chosen = replay._balanced(before, after, 6, np.random.default_rng(0))
    kinds = [(before[i].is_success, after[i].is_success) for i in chosen]
    assert len(set(chosen)) == 6
    assert chosen == sorted(chosen)
    assert set(kinds) == {(False, False), (False, True), (True, False), (True, True)}
    again = replay._balanced(before, after, 6, np.random.default_rng(0))
    assert again == chosen
    eight = replay._balanced(before, after, 8, np.random.default_rng(0))
    assert 92 in eight  # won by both, with less reward in the end
    assert len(replay._balanced(before, after, 500, np.random.default_rng(0))) == 100


def test_comparison_of_other_episodes_is_refused():
    suites, results = _played("gp_l", episodes=3)
    results["end"]["sampled"]["id"] = results["end"]["sampled"]["rule_ood"]
    with pytest.raises(ValueError, match="not of the same episodes"):
        compare(results, suites, 2, None)


def test_decodings_and_suites_without_records_are_left_out():
    suites, results = _played("gp_l", episodes=3)
    assert compare(results, load_task("gp_l").suites[1:2], 2, None) == []
    assert compare(results, suites, 2, None, decoding="greedy") == []
    assert len(compare(results, suites, 2, None, decoding="sampled")) == 6


def test_large_images_are_shrunk():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (900, 1200, 3), np.uint8)
    with PIL.Image.open(io.BytesIO(encode_image(noise))) as image:
        assert (image.size, image.format) == ((512, 384), "JPEG")
    flat = np.zeros((84, 84, 3), np.uint8)
    with PIL.Image.open(io.BytesIO(encode_image(flat))) as image:
        assert (image.size, image.format) == ((84, 84), "PNG")


def test_recorded_replies_that_end_too_soon():
    (env,) = make_envs(suite_env(load_task("gp_l").suites[0], 2, None), 1)
    with pytest.raises(InputError, match="end before the episode does"):
        rollout([env], RecordedPolicy(["wrong"]), [Task(0, ())])
