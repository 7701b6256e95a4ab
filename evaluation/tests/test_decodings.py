"""Ways to decode by name, and episodes that are played several times."""

import pytest

from evaluation import report
from evaluation.decodings import own_temperature
from evaluation.metrics import Resampled, metric_names
from evaluation.play import (
    EvalConfig,
    check_eval_config,
    model_policies,
    play_suites,
    read_records,
    write_records,
)
from evaluation.records import EpisodeRecord, TurnRecord
from evaluation.suites import load_task
from gym_dialogue import InputError, NoisyOraclePolicy
from gym_policy import Renderer
from sft.tiny import build_model, build_tokenizer


def test_decoding_names_its_temperature():
    assert own_temperature("sampled@0.7") == 0.7
    assert own_temperature("sampled@0.85") == 0.85
    assert own_temperature("sampled") is None
    assert own_temperature("greedy") is None


@pytest.mark.parametrize("name", ["beam", "sampled@", "sampled@0", "sampled@-1", "sampled@nan", ""])
def test_decoding_of_no_meaning_is_refused(name):
    with pytest.raises(InputError, match="must be sampled, greedy, or sampled@ and a temperature"):
        check_eval_config(EvalConfig(decoding=["sampled", name]))


def test_policies_sample_at_the_temperatures_named():
    tokenizer = build_tokenizer(["1"])
    model = build_model(len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id, seed=0)
    names = ["sampled", "sampled@0.5", "greedy"]
    policies = model_policies(
        model, Renderer(tokenizer), EvalConfig(decoding=names, temperature=0.9)
    )
    assert list(policies) == names
    assert [policies[name].decoding.temperature for name in names[:2]] == [0.9, 0.5]
    assert [policy.decoding.greedy for policy in policies.values()] == [False, False, True]


def test_each_episode_is_played_several_times_where_decoding_is_sampled(tmp_path):
    suites = load_task("gp_l").suites[:1]
    decodings = ["sampled", "sampled@0.5", "greedy"]
    config = EvalConfig(episodes=12, samples=3, decoding=decodings, verify_iter=1, batch_size=10)
    policies = {name: NoisyOraclePolicy(0.5) for name in decodings}
    records = play_suites(policies, suites, config, show_progress=False)
    seeds = {name: [r.env_seed for r in records[name]["id"]] for name in decodings}
    assert len(set(seeds["greedy"])) == len(seeds["greedy"]) == 12
    assert seeds["sampled"] == seeds["sampled@0.5"] == [s for s in seeds["greedy"] for _ in "abc"]
    replies = [[t.reply for t in r.turns] for r in records["sampled"]["id"]]
    assert any(replies[i] != replies[i + 1] for i in range(0, 36, 3))
    # The first of the tries is the one that there is without the others.
    once = play_suites(
        policies, suites, EvalConfig(**vars(config) | {"samples": 1}), show_progress=False
    )
    assert once["sampled"]["id"] == records["sampled"]["id"][::3]

    write_records(tmp_path / "records.json", records)
    assert read_records(tmp_path / "records.json", suites, config) == records
    table = report.format_table({"a": records}, suites, 1)
    assert "right in at least one of 3 first replies, sampled\n" in table
    assert "first reply, sampled@0.5\n" in table
    assert "replies, sampled@0.5" not in table  # a control shows first replies alone
    assert "3 first replies, greedy" not in table


def _episode(env_seed, is_right):
    turn = TurnRecord(0, "", 0.0, ("X",), "", is_right, 1)
    return EpisodeRecord(env_seed, f"puzzle {env_seed}", is_right, [turn])


def test_pass_at_k_is_the_share_of_deals_that_k_tries_win():
    wins = {1: (True, False, False, False), 2: (False,) * 4, 3: (True, True, False, False)}
    records = [_episode(seed, is_right) for seed, tries in wins.items() for is_right in tries]
    assert "pass_at_4" in metric_names(records, 1)
    assert Resampled(records, "pass_at_4").value == pytest.approx(2 / 3)
    # Two tries out of four miss with 3/6, 1 and 1/6 (equation 1 of arXiv 2107.03374).
    assert Resampled(records, "pass_at_2").value == pytest.approx(1 - (1 / 2 + 1 + 1 / 6) / 3)
    assert Resampled(records, "pass_at_1").value == Resampled(records, "first_reply").value
    assert "pass_at_1" not in metric_names(records[::4], 1)
