"""The verifier as a table: reply -> outcomes, reward in both modes, sentence."""

import json

import pytest

from gym_cards.verifier import FEEDBACK, REWARDS, verify

CARDS, NUMBERS = ["A", "10", "K", "3"], [1, 10, 10, 3]


def _reply(formula, cards=CARDS):
    return json.dumps({"cards": cards, "number": NUMBERS, "formula": formula})


TABLE = [
    # formula, outcomes, reward in mode stacked, reward in mode single
    ("(10-3)*(10+1)", ["NO_SOLUTION"], -1, -1),
    ("10+10+1+3", ["CORRECT_SOLUTION"], 5, 5),
    ("10+10+1+3=24", ["CORRECT_SOLUTION"], 5, 5),
    ("10+10+1+3=25", ["CORRECT_SOLUTION"], 5, 5),  # what stands after = is not checked
    ("10+(10+(1+3", ["PARTIAL_SOLUTION"], 1, 1),
    ("10*(10+(1+3", ["NO_SOLUTION"], -1, -1),
    ("(10-10)/(3-1)", ["NO_SOLUTION"], -1, -1),
    ("3/(10-10)+1", ["NO_SOLUTION"], -1, -1),  # divides by zero
    ("10+10+1+4", ["INCORRECT_NUMBER"] * 2, -4, -2),
    ("10+10+1+3+3", ["INCORRECT_NUMBER"], -2, -2),
    ("10+10+3", ["INCORRECT_NUMBER"], -2, -2),
    ("10+10+1+3+7+8", ["INCORRECT_NUMBER"], -2, -2),
    ("10+10+1+3)", ["ILLEGAL_FORMULA"], -3, -3),
    ("10+10+1+3))", ["ILLEGAL_FORMULA"] * 2, -6, -3),
    ("10+10++1+3", ["ILLEGAL_FORMULA"], -3, -3),
    ("10+10+*4", ["ILLEGAL_FORMULA", "INCORRECT_NUMBER", "INCORRECT_NUMBER"], -7, -3),
    ("10 + 10 + 1 + 3", ["ILLEGAL_FORMULA"], -3, -3),  # a space is a foreign character
    ("10+10+1+x", ["ILLEGAL_FORMULA"], -3, -3),
    ("10+10+1+3.0", ["ILLEGAL_FORMULA"], -3, -3),
    ("", ["ILLEGAL_FORMULA"], -3, -3),
    ("=24", ["ILLEGAL_FORMULA"], -3, -3),
    ("__import__('os').system('true')", ["ILLEGAL_FORMULA"], -3, -3),
    ("(" * 50 + "1" + ")" * 50, ["ILLEGAL_FORMULA"], -3, -3),
    ("9" * 90, ["ILLEGAL_FORMULA"], -3, -3),
]


@pytest.mark.parametrize(("formula", "outcomes", "stacked", "single"), TABLE)
def test_table(formula, outcomes, stacked, single):
    for mode, reward in (("stacked", stacked), ("single", single)):
        verdict = verify(_reply(formula), CARDS, NUMBERS, reward_mode=mode)
        assert list(verdict.outcomes) == outcomes
        assert verdict.reward == reward
        assert verdict.feedback == FEEDBACK[outcomes[0]]
        assert verdict.is_right == (outcomes == ["CORRECT_SOLUTION"])


def test_threes_and_eights():
    verdict = verify(_reply("8/(3-8/3)"), ["3", "3", "8", "8"], [3, 3, 8, 8])
    assert verdict.is_right
    assert verdict.reward == 5


@pytest.mark.parametrize(
    "reply",
    [
        '```json\n{"cards": ["A"], "formula": "10+10+1+3"}\n```',
        'I think: {"cards": ["A"], "number": [1], "formula": "10+10+1+3"} is right.',
        "{'cards': ['A', '10'], 'number': [1, 10,], 'formula': '10+10+1+3',}",
        '{"cards": ["A", "10"], "number": [1,], "formula": "10+10+1+3",}',
        '{"formula": "1+1"}\nNo, wait.\n{"formula": "10+10+1+3"}',
        "formula: 10+10+1+3",
        '"formula": "10+10+1+3"',
    ],
)
def test_lenient_reading(reply):
    assert verify(reply, CARDS, NUMBERS).is_right


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "no idea",
        "\x00\xff\udcff" * 10,
        "[" * 100000,
        '{"formula":' * 5000,
        '{"formula": ' + "[" * 5000 + "]" * 5000 + "}",
        "x" * 1_000_000,
        '{"formula": "' + "1+" * 500_000 + '"}',
        '{"formula": 24}',
        '{"formula": null}',
        "null",
        '{"number": 1' + "0" * 10000 + "}",
        "import os; os.abort()",
    ],
)
def test_unreadable_replies_are_illegal_formulas(reply):
    verdict = verify(reply, CARDS, NUMBERS)
    assert verdict.outcomes == ("ILLEGAL_FORMULA",)
    assert verdict.reward == -3


@pytest.mark.parametrize(
    ("cards", "outcomes"),
    [
        (["3", "K", "10", "A"], ("CORRECT_SOLUTION",)),  # as a multiset
        (["A", "10", "Q", "3"], ("INCORRECT_VISION",)),
        (["A", "10", "K"], ("INCORRECT_VISION",)),
        (["a", 10, "k", 3], ("CORRECT_SOLUTION",)),
        ([], ("INCORRECT_VISION",)),
    ],
)
def test_cards_are_checked_where_they_are_seen(cards, outcomes):
    verdict = verify(_reply("10+10+1+3", cards), CARDS, NUMBERS, check_cards=True)
    assert verdict.outcomes == outcomes
    assert verdict.reward == REWARDS[outcomes[0]]
    assert verify(_reply("10+10+1+3", cards), CARDS, NUMBERS).is_right


def test_other_targets():
    assert verify(_reply("10*10+1-3"), CARDS, NUMBERS, target=98).is_right
