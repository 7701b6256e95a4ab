"""Worked solutions: written by the oracle, checked in replies, and without a part in the reward."""

import json
import time
from fractions import Fraction

import gymnasium
import numpy as np
import pytest

import gym_cards
from gym_cards.hands import is_heldout
from gym_cards.rules import NAMED_RULES, random_rule
from gym_cards.steps import (
    Step,
    are_right,
    draw_steps,
    draw_try,
    formula_of,
    read_steps,
    write_steps,
)
from gym_dialogue import InputError

EXAMPLE = "10-8=2 left 6,9,2; 9*2=18 left 6,18; 18+6=24"


def _env(**kwargs):
    return gymnasium.make(gym_cards.ENV_ID, steps=True, **kwargs)


@pytest.mark.parametrize(
    ("num_cards", "rule", "count"),
    [(4, "10", 150), (4, "random", 150), (5, "rank", 20), (3, "random", 50), (2, "7", 20)],
)
def test_oracle_works_out_every_hand(num_cards, rule, count):
    env = _env(num_cards=num_cards, face_rule=rule)
    for seed in range(count):
        env.reset(seed=seed)
        _, reward, _, _, info = env.step(env.unwrapped.oracle_reply())
        assert reward == 5
        assert info["steps_right"] is True
        assert info["rule_read"] is True


def test_prompt_says_what_each_face_counts_as():
    obs, _ = _env(face_rule={"J": 3, "Q": 9, "K": 6}).reset(seed=0)
    assert "J as 3, Q as 9, K as 6" in obs["text"]
    assert '"steps"' in obs["text"]


@pytest.mark.parametrize(
    ("steps", "formula", "right"),
    [
        (EXAMPLE, "9*(10-8)+6", True),
        (EXAMPLE.replace(" left", "  left").replace(",", ", "), "9*(10-8)+6", True),
        (EXAMPLE, "9*(10-8)+6=24", True),
        (f" {EXAMPLE} ", "9*(10-8)+6", True),
        (EXAMPLE, "9*(10-8)+7", False),  # another formula
        (EXAMPLE.replace("10-8=2 left", "10-8=3 left"), "9*(10-8)+6", False),  # computed wrong
        (EXAMPLE.replace("6,9,2", "6,9,3"), "9*(10-8)+6", False),  # others are left
        (EXAMPLE.replace("; 18+6=24", ""), "9*(10-8)+6", False),  # not at the target
        (EXAMPLE.replace("10-8", "11-9"), "9*(10-8)+6", False),  # a number that is not there
        ("", "9*(10-8)+6", False),
        (EXAMPLE, "4*6", False),  # other numbers
        (EXAMPLE, "9*(10-8)+" + "9" * 5000, False),
        (EXAMPLE, "9*(10-8)+6)", False),
        (None, "9*(10-8)+6", False),
        ("nonsense", "9*(10-8)+6", False),
        ("8/(0/5)=1", "9*(10-8)+6", False),
        ("8/(1/0)=1", "9*(10-8)+6", False),
    ],
)
def test_steps_are_right_if_they_lead_to_the_formula(steps, formula, right):
    assert are_right(steps, formula, [8, 6, 10, 9], 24) is right


def test_fractions_and_negative_numbers_have_parentheses():
    third = Fraction(8, 3)
    steps = [
        Step(Fraction(8), "/", Fraction(3), third, (Fraction(3), third, Fraction(8))),
        Step(Fraction(3), "-", third, Fraction(1, 3), (Fraction(8), Fraction(1, 3))),
        Step(Fraction(8), "/", Fraction(1, 3), Fraction(24), (Fraction(24),)),
    ]
    text = "8/3=(8/3) left 3,(8/3),8; 3-(8/3)=(1/3) left 8,(1/3); 8/(1/3)=24"
    assert write_steps(steps) == text
    assert read_steps(text) == steps
    assert formula_of(steps) == "8/(3-8/3)"
    assert are_right(text, "8/(3-8/3)", [8, 3, 8, 3], 24)
    drawn = draw_steps([8, 3, 8, 3], 24, np.random.default_rng(0))  # has no other solution
    assert are_right(write_steps(drawn), formula_of(drawn), [8, 3, 8, 3], 24)


TRY = "9+6=15 left 10,8,15; 8+15=23 left 10,23; 10+23=33"


@pytest.mark.parametrize(
    ("steps", "right"),
    [
        (f"{TRY} | {EXAMPLE}", True),
        (f"{TRY}|{TRY} |  {EXAMPLE}", True),
        (f"{EXAMPLE} | {TRY}", False),  # the last one counts
        (f"{TRY.replace('=33', '=34')} | {EXAMPLE}", False),  # computed wrong
        (f" | {EXAMPLE}", False),
        (f"{TRY} | {EXAMPLE} | ", False),
    ],
)
def test_solution_may_come_after_tries_that_ended_elsewhere(steps, right):
    assert are_right(steps, "9*(10-8)+6", [8, 6, 10, 9], 24) is right


def test_oracle_shows_as_many_tries_as_asked():
    env = _env(face_rule="random", tries=4)
    counts = []
    for seed in range(200):
        env.reset(seed=seed)
        _, reward, _, _, info = env.step(env.unwrapped.oracle_reply())
        assert (reward, info["steps_right"]) == (5, True)
        counts.append(info["tries"])
    assert set(counts) == {1, 2, 3, 4}
    assert min(map(counts.count, set(counts))) > 30


def test_try_ends_at_one_other_number_whatever_the_solution_passes():
    # Large numbers, with products beyond what may be joined, and a hand of fractions alone.
    rng = np.random.default_rng(0)
    for numbers in ([20, 20, 24], [1, 20, 20, 24], [3, 3, 8, 8]):
        for _ in range(30):
            steps = draw_try(numbers, 24, rng)
            assert len(steps) == len(numbers) - 1
            assert len(steps[-1].left) == 1
            assert steps[-1].c != 24


@pytest.mark.parametrize(
    "arguments", [{"tries": 0}, {"tries": 9}, {"tries": 2.0}, {"tries": 2, "steps": False}]
)
def test_tries_of_no_meaning_are_refused(arguments):
    with pytest.raises(InputError, match=r"tries=.*must be an integer from 1 to 8"):
        gymnasium.make(gym_cards.ENV_ID, **{"steps": True} | arguments)


def test_wrong_steps_cost_nothing():
    env = _env(face_rule="10")
    env.reset(seed=0, options={"cards": ["8", "6", "10", "9"]})
    reply = '{"number": [8, 6, 10, 9], "steps": "%s", "formula": "9*(10-8)+6"}'
    _, reward, _, _, info = env.step(reply % "1+1=3")
    assert reward == 5
    assert info["is_success"]
    assert info["steps_right"] is False
    assert info["steps"] == "1+1=3"


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ('{"number": [10, 8, 3, 1], "formula": "1"}', True),
        ('{"number": [11, 8, 3, 1], "formula": "1"}', False),
        ('{"number": ["10", "8", "3", "1"], "formula": "1"}', True),
        ('{"formula": "1"}', None),
    ],
)
def test_reading_of_the_rule_is_told(reply, read):
    env = gymnasium.make(gym_cards.ENV_ID)  # with and without steps
    env.reset(seed=0, options={"cards": ["J", "8", "3", "A"]})
    _, _, _, _, info = env.step(reply)
    assert info["rule_read"] is read
    assert "steps_right" not in info


def test_mistaken_replies_carry_steps_that_fit_their_formula():
    env = _env(face_rule="10")
    kept = 0
    for seed in range(50):
        env.reset(seed=seed)
        reply = env.unwrapped.mistaken_reply(np.random.default_rng(seed))
        _, _, _, _, info = env.step(reply)
        assert not info["is_right"]
        assert info["steps_right"] is False
        kept += bool(read_steps(info["steps"] or ""))
    assert kept > 25


def test_steps_do_not_change_what_is_dealt():
    plain = gymnasium.make(gym_cards.ENV_ID, face_rule="random")
    for seed in range(20):
        first = plain.reset(seed=seed)[1]
        second = _env(face_rule="random").reset(seed=seed)[1]
        assert first["plain_cards"] == second["plain_cards"]
        assert first["numbers"] == second["numbers"]


def test_same_seed_gives_the_same_worked_solution():
    replies = set()
    for _ in range(2):
        env = _env()
        env.reset(seed=5)
        replies.add(env.unwrapped.oracle_reply())
    assert len(replies) == 1


def test_random_rules_meet_every_value_and_no_named_triple():
    rng = np.random.default_rng(0)
    drawn = [random_rule(rng) for _ in range(3000)]
    triples = {(rule.jack, rule.queen, rule.king) for rule in drawn}
    assert not triples & set(NAMED_RULES.values())
    for place, named in enumerate((11, 12, 13)):
        assert any(triple[place] == named for triple in triples)


def test_random_rules_go_up_to_the_number_named():
    env = _env(face_rule="random", largest_face=24, ood=True)
    largest = 0
    for seed in range(100):
        _, info = env.reset(seed=seed)
        largest = max(largest, *info["numbers"])
    assert 20 <= largest <= 24
    with pytest.raises(InputError, match="largest_face=1: must be an integer from 2 to 99"):
        _env(face_rule="random", largest_face=1)


def test_held_out_puzzles_are_held_out_under_every_rule():
    for rule in ("10", "7", "rank"):
        env = _env(face_rule=rule, split="heldout")
        for seed in range(20):
            assert is_heldout(env.reset(seed=seed)[1]["numbers"])


def test_number_is_one_token_wherever_it_stands():
    from sft.tiny import build_tokenizer

    env = _env(face_rule="random")
    texts = []
    for seed in range(200):
        texts.append(env.reset(seed=seed)[0]["text"])
        texts.append(env.unwrapped.oracle_reply())
    tokenizer = build_tokenizer(texts, env.unwrapped.token_patterns)
    tokens = tokenizer.tokenize(texts[1])
    assert {token for token in tokens if token.isdigit()} >= {"24"}
    assert not any(len(token) > 1 and token[0] in ", ;" and token[-1].isdigit() for token in tokens)
    assert tokenizer.decode(tokenizer(texts[1])["input_ids"]) == texts[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"wording": "diverse"}, "goes with neither"),
        ({"recognition_only": True, "language_only": False, "resolution": 84}, "goes with neither"),
    ],
)
def test_steps_that_nothing_asks_for_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        _env(**arguments)


def test_wording_without_steps_is_refused(tmp_path):
    from gym_cards.prompts import OWN, OWN_STEPS

    file = tmp_path / "wording.json"
    file.write_text(json.dumps(OWN.to_json()))
    with pytest.raises(InputError, match="has no <<steps>>"):
        _env(prompt_file=file)
    file.write_text(json.dumps(OWN_STEPS.to_json()))
    obs, _ = _env(prompt_file=file).reset(seed=0)
    assert '"steps"' in obs["text"]


def test_long_white_space_takes_no_long_time():
    began = time.perf_counter()
    assert read_steps("1+1=2 left " + " " * 300_000 + "x") is None
    assert read_steps("1+1=2" + " " * 300_000 + "x") is None
    assert time.perf_counter() - began < 5


def test_random_replies_never_raise():
    rng = np.random.default_rng(0)
    env = _env(verify_iter=1).unwrapped
    env.reset(seed=0, options={"cards": ["8", "6", "10", "9"]})
    words = [*EXAMPLE.replace(",", " , ").split(), "(", ")", "(8/3)", "(1/0)", "-", "/", "9" * 5000]
    for _ in range(10_000):
        steps = " ".join(rng.choice(words, rng.integers(1, 12)))
        formula = "".join(rng.choice(["9", "*", "(", "10", "-", "8", ")", "+6"], rng.integers(9)))
        right = rng.random() < 0.5  # right steps with any formula, and the other way round
        reply = {"steps": EXAMPLE if right else steps, "formula": formula}
        verdict = env._judge(json.dumps(reply))
        assert verdict.checks["steps_right"] in (True, False)
