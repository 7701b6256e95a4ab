"""The wording of V-IRL navigation: the instruction, the task's prompt, and the form of a reply."""

from __future__ import annotations

import json
from collections.abc import Sequence

from gym_virl.geo import COMPASS, RELATIVE
from gym_virl.rail import Position, Stretch
from gym_virl.routes import NO_LANDMARK, read_sight

REPLY_KEYS = ("current observation", "current instruction", "action")

_AT, _NOT_AT = "you are at an intersection", "you are not at an intersection"

_ENCODER = json.JSONEncoder(ensure_ascii=False)

_TASK = "Walk to the destination by these directions, one move at a time.\n"
_MOVES = "Moves: forward(), turn_direction(X) with X one of {names}, stop()\n"
_VIEWS = {
    "aligned": "The image shows the street in four views: front, right / back, left.\n",
    "released": "The image shows the street in four views, at 135 degrees to the left, 45 to the "
    "left / 45 to the right, 135 to the right.\n",
}
_FORM = (
    "Reply with a JSON object and nothing else: "
    '{"current observation": "...", "current instruction": "...", "action": "..."}'
)


def instruction_steps(stretches: Sequence[Stretch]) -> list[str]:
    """The numbered steps of an instruction, turns and moves by turns; every turn is named both
    ways.
    """
    steps: list[str] = []
    for number, stretch in enumerate(stretches):
        steps.append(f"Turn {stretch.turn[0]}, to face {stretch.turn[1]}.")
        if number < len(stretches) - 1:
            where = f", where {stretch.sight}" if stretch.sight else ""
            steps.append(f"Move forward until the next intersection{where}.")
        else:
            found = read_sight(stretch.sight)
            where = f" {found[0]}, on your {found[1]}" if found else ""
            steps.append(f"Move forward until the destination{where}.")
    return [f"{number}. {step}" for number, step in enumerate(steps, start=1)]


def observation(position: Position) -> str:
    """What is to be seen at a position, and whether it is an intersection."""
    return f"{position.sight or NO_LANDMARK}; {_AT if position.is_intersection else _NOT_AT}."


def action(position: Position, absolute: bool) -> str:
    """The right action at a position, by compass names or by relative ones."""
    if position.kind != "turn":
        return f"{position.kind}()"
    return f"turn_direction({position.turn[1 if absolute else 0]})"


def opening(instruction: str, absolute: bool) -> str:
    """What all prompts of a route begin with; the instruction has one step a line."""
    names = ", ".join(COMPASS if absolute else RELATIVE)
    return f"{_TASK}{instruction}\n" + _MOVES.format(names=names) + "So far:\n"


def history(number: int, position: Position, absolute: bool) -> str:
    """What a position that has been left adds to the prompts after it; `number` counts from 1."""
    return f"O_{number}: {observation(position)}\nA_{number}: {action(position, absolute)}\n"


def present(position: Position, views: str | None) -> str:
    """The end of a prompt: what is observed now, in words, or, where an image has the views in an
    order of that name, only whether this is an intersection.
    """
    if views is None:
        return f"Now: {observation(position)}\n{_FORM}"
    here = _AT if position.is_intersection else _NOT_AT
    return f"Now: {here}.\n{_VIEWS[views]}{_FORM}"


def reply(observed: str, step: str, move: str) -> str:
    """A reply in the form that the prompt asks for."""
    return _ENCODER.encode(dict(zip(REPLY_KEYS, (observed, step, move), strict=True)))
