"""The wording of V-IRL navigation: the instruction, the task's prompt, and the form of a reply."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from gym_virl.geo import COMPASS, RELATIVE
from gym_virl.rail import Position, Stretch
from gym_virl.routes import NO_LANDMARK, read_destination

REPLY_KEYS = ("current observation", "current instruction", "action")

_AT, _NOT_AT = "you are at an intersection", "you are not at an intersection"

_ENCODER = json.JSONEncoder(ensure_ascii=False)

_VIEWS = {
    "aligned": "The image shows the street in four views: front, right / back, left.\n",
    "released": "The image shows the street in four views, at 135 degrees to the left, 45 to the "
    "left / 45 to the right, 135 to the right.\n",
}
_KEYS = '{"current observation": "...", "current instruction": "...", "action": "..."}'


@dataclass(frozen=True)
class Wording:
    """What a prompt says around the directions, the history and the observation: the task, the
    moves that there are ({names} stands for the directions), and the form of a reply.
    """

    task: str
    moves: str
    form: str


OWN = Wording(
    "Walk to the destination by these directions, one move at a time.\n",
    "Moves: forward(), turn_direction(X) with X one of {names}, stop()\n",
    f"Reply with a JSON object and nothing else: {_KEYS}",
)
"""The project's own."""

DIVERSE = (
    OWN,
    Wording(
        "You are on foot in a city. Follow the route below, step by step.\n",
        "Moves: you can call forward(), stop(), or turn_direction(X), X being {names}\n",
        f"Answer with this JSON object, filled in, and no other text: {_KEYS}",
    ),
    Wording(
        "These directions lead to a place. What is the next move?\n",
        "Moves: turn_direction(X), where X is {names}; forward(); stop()\n",
        f"Output format: {_KEYS}",
    ),
    Wording(
        "TASK navigation, one action per reply. ROUTE:\n",
        "Moves: forward() | turn_direction(X) | stop(), X in {names}\n",
        f"OUTPUT {_KEYS}",
    ),
    Wording(
        "Guide a pedestrian along this way, from the first step to the last.\n",
        "Moves: the pedestrian understands forward(), stop() and turn_direction(X) for {names}\n",
        f"Write down what is seen, the step that it belongs to and the move: {_KEYS}",
    ),
    Wording(
        "Please help me find the way. I was told:\n",
        "Moves: tell me forward(), stop(), or turn_direction(X) with one of {names} for X\n",
        f"Please reply in JSON only, with these keys: {_KEYS}",
    ),
)
"""The project's own and five others that mean the same (`gym_cards.paraphrases` says what for)."""


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
            where = f", where {stretch.sight}" if stretch.sight else ""
            if (named := read_destination(stretch.sight)) is not None:
                where = f" {named[0]}, on your {named[1]}"
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


def opening(instruction: str, absolute: bool, wording: Wording = OWN) -> str:
    """What all prompts of a route begin with; the instruction has one step a line."""
    names = ", ".join(COMPASS if absolute else RELATIVE)
    return f"{wording.task}{instruction}\n" + wording.moves.format(names=names) + "So far:\n"


def history(number: int, position: Position, absolute: bool) -> str:
    """What a position that has been left adds to the prompts after it; `number` counts from 1."""
    return f"O_{number}: {observation(position)}\nA_{number}: {action(position, absolute)}\n"


def present(position: Position, views: str | None, wording: Wording = OWN) -> str:
    """The end of a prompt: what is observed now, in words, or, where an image has the views in an
    order of that name, only whether this is an intersection.
    """
    if views is None:
        return f"Now: {observation(position)}\n{wording.form}"
    here = _AT if position.is_intersection else _NOT_AT
    return f"Now: {here}.\n{_VIEWS[views]}{wording.form}"


def reply(observed: str, step: str, move: str) -> str:
    """A reply in the form that the prompt asks for."""
    return _ENCODER.encode(dict(zip(REPLY_KEYS, (observed, step, move), strict=True)))
