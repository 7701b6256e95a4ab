"""One reply at a position -> outcome, reward and the sentence that the policy gets to read."""

from __future__ import annotations

import re
from typing import Any

from gym_dialogue.env import Verdict
from gym_dialogue.parse import read_fields
from gym_virl.geo import COMPASS, RELATIVE
from gym_virl.legends import Legend, read_plain_words
from gym_virl.rail import Position
from gym_virl.routes import name_in

CORRECT_ACTION = "CORRECT_ACTION"
INCORRECT_OBS = "INCORRECT_OBS"
INCORRECT_ACTION = "INCORRECT_ACTION"

REWARDS = {CORRECT_ACTION: 1.0, INCORRECT_OBS: -1.5, INCORRECT_ACTION: -1.0}

REPLY_KEYS = ("current observation", "current instruction", "action")

FEEDBACK = {
    "right": "",
    "missed_intersection": "You are at an intersection, and your observation does not say so. "
    "Answer again.",
    "imagined_intersection": "Your observation speaks of an intersection, and you are not at one. "
    "Answer again.",
    "wrong_move": "That move does not follow the directions. Answer again.",
    "unreadable": "There is no move that can be read in your answer. Answer again.",
}
"""What is found in a reply -> what is said of it."""

_FIELDS = dict.fromkeys(REPLY_KEYS, str)
_MOVE = "move"  # the field of a reply under a legend that names the move in plain words
_MAX_ACTION = 64  # characters
_ACTION = re.compile(
    r"(forward|stop|turn_direction)\s*"
    r"\(\s*(?:(?:direction|x)\s*[=:])?\s*[\"']?([a-z_ -]*)[\"']?\s*\)\s*[;.]?"
)
_DIRECTIONS = {name.replace(" ", ""): name for name in (*COMPASS, *RELATIVE)}

_INTERSECTION = re.compile(r"\bintersections?\b")
_DENIAL = re.compile(r"\b(?:no|not|without|never|nor|neither|cannot|\w+n't|until|before)\b")
_CLAUSE_END = re.compile(
    r"[.;,:!?\n()\[\]/&|\u2013\u2014]|\s-+\s"
    r"|\b(?:but|while|whereas|although|though|however|because|since|plus|then|as)\b"
    # "no shop and intersection" denies both.
    r"|\band\b(?!\s+intersections?\b)"
)


def read_action(text: str | None) -> str | None:
    """Return an action in its usual form, `forward()`, `stop()` or `turn_direction(NAME)`; None
    where the text is none. Case, spaces, quotes and hyphens in the name, a keyword before it
    (`direction=NAME`), and a `;` or `.` behind do not matter.
    """
    text = (text or "").strip().lower()
    match = _ACTION.fullmatch(text) if len(text) <= _MAX_ACTION else None
    if match is None:
        return None
    verb, argument = match.groups()
    name = _DIRECTIONS.get(re.sub(r"[_ -]", "", argument))
    if verb == "turn_direction":
        return None if name is None else f"{verb}({name})"
    return None if argument.strip() else f"{verb}()"


def says_intersection(text: str | None) -> bool:
    """Return whether an observation says that one is at an intersection. One that does not mention
    it says no, as does one that denies it or speaks of one ahead (`until the next intersection`). A
    denial holds to the end of its clause.
    """
    for clause in _CLAUSE_END.split((text or "").lower().replace("\u2019", "'")):
        place = _INTERSECTION.search(clause)
        if place is not None and _DENIAL.search(clause, 0, place.start()) is None:
            return True
    return False


def verify(
    reply: str,
    position: Position,
    absolute: bool,
    sees: bool = False,
    legend: Legend | None = None,
) -> Verdict:
    """Verify one reply at a position. Accepts any string and never raises.

    The action decides; for a wrong one it is told apart whether the observation already disagrees
    about being at an intersection. What the reply says of the instruction is read, and not judged:
    the outcome that the released code defines for it and never gives (INCORRECT_INSTRUCTION) is
    left out. With `sees` (the landmark is in an image only) `recognized` is whether the observation
    names it, at positions that have one. Under a legend the action is what the legend says that it
    means, and the verdict has checks (`_check_legend`). `info` has what was read, and the `finding`
    (FEEDBACK).
    """
    fields = read_fields(reply, _FIELDS if legend is None else _FIELDS | {_MOVE: str})
    observed, instructed, written = (fields[key] for key in REPLY_KEYS)
    action = read_action(written)
    move = action if legend is None else legend.read(action)
    right = position.action(absolute)
    outcome, finding = _find(move == right, action is not None, observed, position)
    name = name_in(position.sight) if sees else None
    info: dict[str, Any] = {
        "read_observation": observed,
        "read_instruction": instructed,
        "read_action": written,
        "finding": finding,
    }
    checks: dict[str, bool] = {}
    if legend is not None:
        named = read_plain_words(fields[_MOVE])
        checks = _check_legend(named, action, right, legend)
        is_read = None if named is None else checks["legend_read"]
        info |= {"read_move": move, "legend_read": is_read}
    return Verdict(
        reward=REWARDS[outcome],
        outcomes=(outcome,),
        feedback=FEEDBACK[finding],
        is_right=outcome == CORRECT_ACTION,
        info=info,
        recognized=None if name is None else name.lower() in (observed or "").lower(),
        checks=checks,
    )


def _find(
    is_right: bool, is_read: bool, observed: str | None, position: Position
) -> tuple[str, str]:
    """Return the outcome of a reply and the finding, from its action and what it observes."""
    if is_right:
        return CORRECT_ACTION, "right"
    if says_intersection(observed) != position.is_intersection:
        kind = "missed" if position.is_intersection else "imagined"
        return INCORRECT_OBS, f"{kind}_intersection"
    return INCORRECT_ACTION, "wrong_move" if is_read else "unreadable"


def _check_legend(
    named: str | None, action: str | None, right: str, legend: Legend
) -> dict[str, bool]:
    """Return whether the move that a reply names in plain words is the right one, and whether the
    action is what the legend writes for the move that it names, right or not.
    """
    is_read = named in legend.moves and named is not None and action == legend.write(named)
    return {"move_right": named == right, "legend_read": is_read}
