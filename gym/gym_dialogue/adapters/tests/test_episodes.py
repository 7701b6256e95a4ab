"""Bad input that every adapter refuses in the same way."""

import argparse

import pytest

from gym_dialogue import InputError
from gym_dialogue.adapters.episodes import at_least_one, check_seeds, json_object, make, reply


@pytest.mark.parametrize(
    ("env_id", "kwargs", "word"),
    [
        ("CartPole-v1", None, "is none of dialogues"),
        ("gym_cards/GeneralPoint-oneline-v0", [1], "must be the environment's arguments by name"),
        ("gym_cards/Poker-v0", None, "Poker"),
    ],
)
def test_environments_that_cannot_be_played_are_named(env_id, kwargs, word):
    with pytest.raises(InputError, match=word):
        make(env_id, kwargs)


@pytest.mark.parametrize(
    ("episodes", "seed", "word"),
    [(0, 0, "episodes=0"), (-4, 0, "episodes=-4"), (1, -3, "seed=-3"), (2, 2**63, "seed=9223")],
)
def test_seeds_that_deal_nothing_are_named(episodes, seed, word):
    with pytest.raises(InputError, match=word):
        check_seeds(episodes, seed)


@pytest.mark.parametrize("text", ["{cards", "[1]", "5", "null"])
def test_flags_of_arguments_must_be_objects(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be a JSON object"):
        json_object(text)


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5"])
def test_flags_of_counts_must_be_whole_numbers(text):
    with pytest.raises(argparse.ArgumentTypeError, match="at least 1"):
        at_least_one(text)


def test_half_a_character_becomes_a_question_mark():
    assert reply(b"24 \\ud800".decode("unicode_escape")).text == "24 ?"
