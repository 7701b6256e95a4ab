"""Judge one reply to a hand: outcomes, reward, and the sentence that the policy gets to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gym_cards.formula import (
    evaluate,
    find_faults,
    foreign_characters,
    numbers_in,
    tokenize,
)
from gym_cards.printed import opens_a_solution
from gym_dialogue.env import Verdict
from gym_dialogue.parse import read_fields

RewardMode = Literal["stacked", "single"]

CORRECT_SOLUTION = "CORRECT_SOLUTION"
PARTIAL_SOLUTION = "PARTIAL_SOLUTION"
NO_SOLUTION = "NO_SOLUTION"
INCORRECT_VISION = "INCORRECT_VISION"
INCORRECT_NUMBER = "INCORRECT_NUMBER"
ILLEGAL_FORMULA = "ILLEGAL_FORMULA"

REWARDS = {
    CORRECT_SOLUTION: 5.0,
    PARTIAL_SOLUTION: 1.0,
    NO_SOLUTION: -1.0,
    INCORRECT_VISION: -1.5,
    INCORRECT_NUMBER: -2.0,
    ILLEGAL_FORMULA: -3.0,
}

FEEDBACK = {
    CORRECT_SOLUTION: "",
    PARTIAL_SOLUTION: "Nearly: the formula is right but for a closing parenthesis that is missing. "
    "Answer again.",
    NO_SOLUTION: "The numbers are right, but the formula does not make the target. Answer again.",
    INCORRECT_VISION: "The cards in your answer are not the cards on the table. Look and answer "
    "again.",
    INCORRECT_NUMBER: "The formula must use the value of every card exactly once and no other "
    "number. Answer again.",
    ILLEGAL_FORMULA: "There is no legal formula in your answer. Answer again.",
}

FINDINGS = {
    "wrong_cards": "The cards in your answer are not the cards on the table.",
    "unreadable": "There is no formula in your answer.",
    "foreign_character": "A formula has no character but digits, + - * / and parentheses: not "
    "<<offending>>.",
    "number_order": "A number stands after a number or a closing parenthesis.",
    "operator_order": "An operator stands where no number or closing parenthesis comes before it.",
    "open_order": "An opening parenthesis stands after a number or a closing parenthesis.",
    "close_order": "A closing parenthesis stands where no number or closing parenthesis comes "
    "before it.",
    "unmatched": "A closing parenthesis closes nothing.",
    "foreign_numbers": "Numbers that no card has: <<offending>>.",
    "overused_numbers": "Numbers used too often: <<offending>>.",
    "unused_numbers": "Numbers not used: <<offending>>.",
    "partial": "The formula is right but for a closing parenthesis that is missing.",
    "wrong_value": "The numbers are right, but the formula does not make <<target>>.",
}
"""Kind of finding -> its sentence in feedback that names all findings.
`<<offending>>` stands for the numbers, or characters, that it is about."""

SPACE = "a space"

REPLY_FIELDS = {"cards": list, "number": list, "formula": str}


@dataclass(frozen=True)
class Finding:
    """One thing found in a reply: its outcome, its kind (a key of FINDINGS), and the numbers, or
    characters, that it is about.
    """

    outcome: str
    kind: str
    offending: tuple[str, ...] = ()


def verify(
    reply: str,
    cards: Sequence[str],
    numbers: Sequence[int],
    target: int = 24,
    reward_mode: RewardMode = "stacked",
    check_cards: bool = False,
) -> Verdict:
    """Verify one reply to a hand. Accepts any string and never raises.

    `check_cards` is for hands shown as an image: the `cards` of the reply must then be the dealt
    ones, as a multiset. In mode `stacked` the penalties of everything found add up (as in the
    released code); in mode `single` the first one counts alone (as in the paper's text).
    `Verdict.outcomes` names each finding, repeated where it is penalised repeatedly, so that in
    mode `stacked` the reward is the sum over it. `info` has `read_cards`, `read_numbers`,
    `formula`, and `findings`, a Finding for each outcome; `recognized` is None without
    `check_cards`.
    """
    fields = read_fields(reply, REPLY_FIELDS)
    recognized = _names_cards(fields, cards) if check_cards else None
    if recognized is False:
        findings = [Finding(INCORRECT_VISION, "wrong_cards")]
    else:
        findings = _findings(fields["formula"], numbers, target)
    outcomes = tuple(finding.outcome for finding in findings)
    counted = outcomes if reward_mode == "stacked" else outcomes[:1]
    return Verdict(
        reward=sum(REWARDS[outcome] for outcome in counted),
        outcomes=outcomes,
        feedback=FEEDBACK[outcomes[0]],
        is_right=outcomes[0] == CORRECT_SOLUTION,
        info={
            "read_cards": fields["cards"],
            "read_numbers": fields["number"],
            "formula": fields["formula"],
            "findings": tuple(findings),
        },
        recognized=recognized,
    )


def verify_cards(reply: str, cards: Sequence[str]) -> Verdict:
    """Verify one reply that only names the cards of a hand: CORRECT_SOLUTION if its `cards` are
    these, as a multiset, else INCORRECT_VISION. Accepts any string and never raises.
    """
    fields = read_fields(reply, {"cards": list})
    recognized = _names_cards(fields, cards)
    outcome = CORRECT_SOLUTION if recognized else INCORRECT_VISION
    finding = Finding(outcome, "right" if recognized else "wrong_cards")
    return Verdict(
        reward=REWARDS[outcome],
        outcomes=(outcome,),
        feedback=FEEDBACK[outcome],
        is_right=recognized,
        info={"read_cards": fields["cards"], "formula": None, "findings": (finding,)},
        recognized=recognized,
    )


def _names_cards(fields: dict[str, Any], cards: Sequence[str]) -> bool:
    read = [str(card).strip().upper() for card in fields["cards"] or ()]
    return Counter(read) == Counter(cards)


def _findings(formula: str | None, numbers: Sequence[int], target: int) -> list[Finding]:
    """Return the findings of a formula, in the order in which they are penalised; one at least."""
    if formula is None:
        return [Finding(ILLEGAL_FORMULA, "unreadable")]
    formula = formula.split("=", 1)[0]
    foreign = foreign_characters(formula)
    if foreign:
        named = tuple(SPACE if character == " " else character for character in foreign)
        return [Finding(ILLEGAL_FORMULA, "foreign_character", named)]
    tokens = tokenize(formula)
    faults, left_open = find_faults(tokens)
    findings = [Finding(ILLEGAL_FORMULA, fault) for fault in faults]
    findings += _number_findings(tokens, numbers)
    if findings:
        return findings
    if evaluate(tokens) == target:
        return [Finding(CORRECT_SOLUTION, "right")]
    if left_open == 1 and opens_a_solution(tokens, target):
        return [Finding(PARTIAL_SOLUTION, "partial")]
    return [Finding(NO_SOLUTION, "wrong_value")]


def _number_findings(tokens: Sequence[str], numbers: Sequence[int]) -> list[Finding]:
    """Return at most one finding for numbers too many, and one for numbers that lack."""
    used, dealt = Counter(numbers_in(tokens)), Counter(map(str, numbers))
    foreign = tuple(number for number in used if number not in dealt)
    too_often = tuple(number for number in used if used[number] > dealt[number])
    unused = tuple(number for number in dealt if used[number] < dealt[number])
    findings = []
    if foreign:
        findings.append(Finding(INCORRECT_NUMBER, "foreign_numbers", foreign))
    elif too_often:
        findings.append(Finding(INCORRECT_NUMBER, "overused_numbers", too_often))
    if unused:
        findings.append(Finding(INCORRECT_NUMBER, "unused_numbers", unused))
    return findings
