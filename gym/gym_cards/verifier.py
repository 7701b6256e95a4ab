"""One reply to a hand -> outcomes, reward and the sentence that the policy gets to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from gym_cards.formula import count_faults, evaluate, numbers_in, tokenize
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

REPLY_FIELDS = {"cards": list, "number": list, "formula": str}


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
    mode `stacked` the reward is the sum over it. `info` has `read_cards` and `formula`;
    `recognized` is None without `check_cards`.
    """
    fields = read_fields(reply, REPLY_FIELDS)
    recognized = _names_cards(fields, cards) if check_cards else None
    if recognized is False:
        outcomes: tuple[str, ...] = (INCORRECT_VISION,)
    else:
        outcomes = _outcomes(fields["formula"], numbers, target)
    counted = outcomes if reward_mode == "stacked" else outcomes[:1]
    return Verdict(
        reward=sum(REWARDS[outcome] for outcome in counted),
        outcomes=outcomes,
        feedback=FEEDBACK[outcomes[0]],
        is_right=outcomes[0] == CORRECT_SOLUTION,
        info={"read_cards": fields["cards"], "formula": fields["formula"]},
        recognized=recognized,
    )


def verify_cards(reply: str, cards: Sequence[str]) -> Verdict:
    """Verify one reply that only names the cards of a hand: CORRECT_SOLUTION if its `cards` are
    these, as a multiset, else INCORRECT_VISION. Accepts any string and never raises.
    """
    fields = read_fields(reply, {"cards": list})
    recognized = _names_cards(fields, cards)
    outcome = CORRECT_SOLUTION if recognized else INCORRECT_VISION
    return Verdict(
        reward=REWARDS[outcome],
        outcomes=(outcome,),
        feedback=FEEDBACK[outcome],
        is_right=recognized,
        info={"read_cards": fields["cards"], "formula": None},
        recognized=recognized,
    )


def _names_cards(fields: dict[str, Any], cards: Sequence[str]) -> bool:
    read = [str(card).strip().upper() for card in fields["cards"] or ()]
    return Counter(read) == Counter(cards)


def _outcomes(formula: str | None, numbers: Sequence[int], target: int) -> tuple[str, ...]:
    tokens = None if formula is None else tokenize(formula.split("=", 1)[0])
    if not tokens:  # unreadable, empty, with a foreign character, or beyond a limit
        return (ILLEGAL_FORMULA,)
    faults, left_open = count_faults(tokens)
    found = [ILLEGAL_FORMULA] * faults
    used, dealt = Counter(numbers_in(tokens)), Counter(numbers)
    if used - dealt:
        found.append(INCORRECT_NUMBER)
    if dealt - used:
        found.append(INCORRECT_NUMBER)
    if found:
        return tuple(found)
    if evaluate([*tokens, *")" * left_open]) != target:
        return (NO_SOLUTION,)
    return (PARTIAL_SOLUTION,) if left_open else (CORRECT_SOLUTION,)
