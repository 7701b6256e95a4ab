"""The verifier as a table: reply -> outcomes, reward in both modes, sentence."""

import json
from pathlib import Path

import pytest

from gym_cards.rules import FaceRule
from gym_cards.verifier import FEEDBACK, REWARDS, Finding, verify

CARDS, NUMBERS = ["A", "10", "K", "3"], [1, 10, 10, 3]


def _reply(formula, cards=CARDS):
    return json.dumps({"cards": cards, "number": NUMBERS, "formula": formula})


TABLE = [
    # formula, outcomes, reward in mode stacked, reward in mode single
    ("(10-3)*(10+1)", ["NO_SOLUTION"], -1, -1),
    ("10+10+1+3", ["CORRECT_SOLUTION"], 5, 5),
    ("10+10+1+3=24", ["CORRECT_SOLUTION"], 5, 5),
    ("10+10+1+3=25", ["CORRECT_SOLUTION"], 5, 5),  # what stands after = is not checked
    ("10+(10+1+3", ["PARTIAL_SOLUTION"], 1, 1),
    ("(10+10)+(1+3", ["PARTIAL_SOLUTION"], 1, 1),
    ("10+10+(1+3", ["PARTIAL_SOLUTION"], 1, 1),
    ("10+(10+(1+3", ["NO_SOLUTION"], -1, -1),  # no printed solution begins so, nor as the next two
    ("(10+10+1+3", ["NO_SOLUTION"], -1, -1),
    ("10+10+1+(3", ["NO_SOLUTION"], -1, -1),
    ("10*(10+1+3", ["NO_SOLUTION"], -1, -1),
    ("10+10+1+3+", ["NO_SOLUTION"], -1, -1),  # an operator at the end is not illegal
    ("10+10+1+3+(", ["NO_SOLUTION"], -1, -1),
    ("10+10+01+3", ["NO_SOLUTION"], -1, -1),  # a leading zero has no value, as in Python
    ("10+", ["INCORRECT_NUMBER"], -2, -2),
    ("10+11*", ["INCORRECT_NUMBER"] * 2, -4, -2),
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
    ("10+10(1+3)", ["ILLEGAL_FORMULA"] * 2, -6, -3),  # a ( out of place opens nothing
    ("()10+10+1+3", ["ILLEGAL_FORMULA"] * 2, -6, -3),
    ("", ["INCORRECT_NUMBER"], -2, -2),  # an empty formula is legal, and uses nothing
    ("=24", ["INCORRECT_NUMBER"], -2, -2),
    ("__import__('os').system('true')", ["ILLEGAL_FORMULA"], -3, -3),
    ("(" * 50 + "1" + ")" * 50, ["INCORRECT_NUMBER"], -2, -2),
    ("(" * 50 + "10+10+1+3" + ")" * 50, ["CORRECT_SOLUTION"], 5, 5),
    ("9" * 9000, ["INCORRECT_NUMBER"] * 2, -4, -2),
]


@pytest.mark.parametrize(("formula", "outcomes", "stacked", "single"), TABLE)
def test_verdicts_match_the_table(formula, outcomes, stacked, single):
    for mode, reward in (("stacked", stacked), ("single", single)):
        verdict = verify(_reply(formula), CARDS, NUMBERS, reward_mode=mode)
        assert list(verdict.outcomes) == outcomes
        assert verdict.reward == reward
        assert verdict.feedback == FEEDBACK[outcomes[0]]
        assert verdict.is_right == (outcomes == ["CORRECT_SOLUTION"])


def test_rewards_are_those_of_the_released_verifier():
    path = Path(__file__).parent / "data" / "released_rewards.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(records) == 1200
    for record in records:
        cards, target = record["cards"], record["target"]
        numbers = FaceRule.of("10" if record["face10"] else "rank").numbers(cards)
        verdict = verify(
            record["reply"], cards, numbers, target, check_cards=not record["language_only"]
        )
        assert verdict.reward == record["reward"], record


@pytest.mark.parametrize(
    ("formula", "findings"),
    [
        ("10 + x", [("foreign_character", ("a space", "x"))]),
        ("7+10+10+3", [("foreign_numbers", ("7",)), ("unused_numbers", ("1",))]),
        ("7+8+10+3+10+1", [("foreign_numbers", ("7", "8"))]),
        ("10+10+3+3+1+1", [("overused_numbers", ("3", "1"))]),
        ("10+10*", [("unused_numbers", ("1", "3"))]),
        (
            "10+*10(1)3)",
            [(kind, ()) for kind in ("operator_order", "open_order")]
            + [("unmatched", ()), ("number_order", ()), ("unmatched", ())],
        ),
        (
            "+(10)10+()1+3",
            [(kind, ()) for kind in ("operator_order", "number_order")]
            + [("close_order", ()), ("number_order", ())],
        ),
        ("10+(10+1+3", [("partial", ())]),
        ("10*10+1+3", [("wrong_value", ())]),
        (None, [("unreadable", ())]),
    ],
)
def test_findings_are_all_told(formula, findings):
    verdict = verify(_reply(formula), CARDS, NUMBERS)
    told = verdict.info["findings"]
    assert [(finding.kind, finding.offending) for finding in told] == findings
    assert tuple(finding.outcome for finding in told) == verdict.outcomes


def test_misread_cards_end_the_check():
    verdict = verify(_reply("1+x", ["A"]), CARDS, NUMBERS, check_cards=True)
    assert verdict.info["findings"] == (Finding("INCORRECT_VISION", "wrong_cards"),)


def test_fractions_are_exact_in_threes_and_eights():
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
def test_replies_are_read_leniently(reply):
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


def test_targets_other_than_24_are_judged():
    assert verify(_reply("10*10+1-3"), CARDS, NUMBERS, target=98).is_right
