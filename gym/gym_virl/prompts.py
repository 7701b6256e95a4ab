"""The wording of V-IRL navigation: the instruction, the task's prompt, the verifier's sentences,
and the form of a reply; the project's own, or that of a file (`prompt_file=`).

A wording file is JSON. Its texts are strings, or lists of lines, with placeholders `<<name>>`; all
other text stands for itself. `python -m gym_dialogue.wording` makes one from what a user has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from gym_dialogue.checks import read_json
from gym_dialogue.errors import InputError
from gym_dialogue.templates import (
    MARK,
    check_keys,
    check_keys_among,
    check_placeholders,
    fill,
    from_lines,
    texts_in,
    to_lines,
)
from gym_virl.geo import COMPASS, RELATIVE
from gym_virl.legends import PLAIN_WORDS, Legend
from gym_virl.rail import Position, Stretch
from gym_virl.routes import NO_LANDMARK, read_destination
from gym_virl.streetview import HEADINGS
from gym_virl.verifier import FEEDBACK, REPLY_KEYS, says_intersection, verify

FORMAT = "gym_virl wording 1"

RULES = ("absolute", "relative")
STEPS = (
    "turn",
    "forward",
    "forward_sight",
    "arrive",
    "arrive_sight",
    "first_turn",
    "arrive_destination",
)
_OPTIONAL_STEPS = {"first_turn": "turn", "arrive_destination": "arrive_sight"}
ROLES = ("start", "between", "intersection", "destination")
CROSSING = ("at", "away")

_MAX_ACTION = 100  # characters of a reply's action that feedback repeats

_STEP_VALUES = {
    "turn": ("relative", "compass"),
    "first_turn": ("relative", "compass"),
    "forward": (),
    "forward_sight": ("sight",),
    "arrive": (),
    "arrive_sight": ("sight",),
    "arrive_destination": ("sight", "name", "side"),
}
_PLACEHOLDERS = {
    "prompt": (
        *("instruction", "moves", "legend", "history"),
        *("number", "observation", "sight", "crossing"),
    ),
    "image_prompt": (
        *("instruction", "moves", "legend", "history"),
        *("number", "crossing", "views"),
    ),
    "moves": (),
    "views": (),
    "step_line": ("number", "step"),
    "reply_step": ("number", "step"),
    "nothing": (),
    "crossing": (),
    "observation": ("sight", "crossing"),
    "history": ("number", "observation", "sight", "crossing", "move", "action"),
    "reply": ("observation", "step", "move", "action"),
    "feedback": ("action", "used", "remaining"),
}


APART = "_apart"
"""The end of the name of a view order whose views are images of their own."""


@dataclass(frozen=True)
class Wording:
    """Every text of the environment. A file has these keys, and `format`; all but `prompt` and
    `steps` may be left out.
    """

    prompt: str
    """The first user message. Placeholders: `instruction`, the lines of the directions; `moves`;
    `legend`, its lines, which is empty with the line end after it where there is none; `history`,
    what all positions that were left add; `number`, that of the present position, from 1;
    `observation`, or its parts `sight` and `crossing`."""
    steps: Mapping[str, str]
    """The steps of the directions. `turn`, with the placeholders `relative` and `compass`;
    `forward`, and with a landmark `forward_sight`; `arrive`, and with something to see at the
    destination `arrive_sight`, both with `sight`. May be left out: `first_turn`, where the first of
    several is worded otherwise; `arrive_destination`, where what is to be seen is the destination
    itself, with `name` and `side`."""
    image_prompt: str | None = None
    """The same where an image shows the views, with `views`, how they are arranged, and without
    `observation` and `sight`. None: the wording is for observations in words only."""
    moves: Mapping[str, str] = field(default_factory=dict)
    """The moves that there are, under the rule `absolute` and the rule `relative`."""
    views: Mapping[str, str] = field(default_factory=dict)
    """How the views of the image are arranged, by view order; and under `aligned_apart` and
    `released_apart`, where each is an image of its own."""
    step_line: str = "<<number>>. <<step>>\n"
    """A step in the directions."""
    reply_step: str = "<<number>>. <<step>>"
    """A step as a reply names it."""
    nothing: Mapping[str, str] = field(default_factory=dict)
    """What `sight` is where there is nothing in sight: at the `start`, `between` two intersections,
    at an `intersection`, at the `destination`."""
    crossing: Mapping[str, str] = field(default_factory=dict)
    """`at` an intersection, and `away` from one."""
    observation: str = "<<sight>>; <<crossing>>."
    """What is observed, in prompts and in replies."""
    history: str = "O_<<number>>: <<observation>>\nA_<<number>>: <<action>>\n"
    """What a position that was left adds to `history`; `move` as in `reply`."""
    reply: str = (
        "{"
        + ", ".join(
            f'"{key}": "<<{name}>>"'
            for key, name in zip(REPLY_KEYS, ("observation", "step", "action"), strict=True)
        )
        + "}"
    )
    """A reply in the form that the prompt asks for; `move` is the move in plain words, as legends
    have it. Where the form is strict JSON, what is put in is escaped as JSON has it."""
    feedback: Mapping[str, str] = field(default_factory=dict)
    """finding (`gym_virl.verifier.FEEDBACK`) -> the verifier's sentence, with `action` as the reply
    had it, `used` and `remaining`, numbers of replies; those left out have the project's own."""

    def instruction_steps(self, stretches: Sequence[Stretch]) -> list[str]:
        """Return the steps of an instruction: a turn, named both ways, then a move, and so on."""
        steps: list[str] = []
        for number, stretch in enumerate(stretches):
            turn = dict(zip(("relative", "compass"), stretch.turn, strict=True))
            is_first = (
                number == 0 < len(stretches) - 1
            )  # one that is also the last is worded as such
            steps.append(self._step("first_turn" if is_first else "turn", turn))
            sight = {"sight": stretch.sight or ""}
            if number < len(stretches) - 1:
                steps.append(self._step("forward_sight" if stretch.sight else "forward", sight))
            elif (named := read_destination(stretch.sight)) is not None:
                sight |= dict(zip(("name", "side"), named, strict=True))
                steps.append(self._step("arrive_destination", sight))
            else:
                steps.append(self._step("arrive_sight" if stretch.sight else "arrive", sight))
        return steps

    def _step(self, kind: str, values: Mapping[str, str]) -> str:
        text = self.steps.get(kind) or self.steps[_OPTIONAL_STEPS[kind]]
        return fill(text, values)

    def instruction(self, steps: Sequence[str]) -> str:
        """Return the lines of the directions."""
        return "".join(
            fill(self.step_line, {"number": str(number), "step": step})
            for number, step in enumerate(steps, start=1)
        )

    def named_step(self, steps: Sequence[str], number: int) -> str:
        """Return one of the steps, counted from 0, as a reply names it."""
        return fill(self.reply_step, {"number": str(number + 1), "step": steps[number]})

    def observe(self, position: Position) -> dict[str, str]:
        """Return what is to be seen at a position: `sight`, `crossing`, and both as an
        `observation`.
        """
        values = {
            "sight": position.sight or self.nothing[position.role],
            "crossing": self.crossing["at" if position.is_intersection else "away"],
        }
        return values | {"observation": fill(self.observation, values)}

    def opening(
        self,
        steps: Sequence[str],
        absolute: bool,
        has_image: bool,
        legend: Legend | None = None,
    ) -> str:
        """Return what all prompts of a route begin with. Raises InputError for images without a
        wording for them.
        """
        text = self._parts(has_image)[0]
        values = {
            "instruction": self.instruction(steps),
            "moves": self.moves[RULES[0 if absolute else 1]],
        }
        if legend is None:
            text = _LEGEND_MARK.sub("", text)
        else:
            values["legend"] = legend.lines()
        return fill(text, values)

    def left(
        self, number: int, position: Position, absolute: bool, legend: Legend | None = None
    ) -> str:
        """Return what a position that has been left adds to the prompts after it; `number` is from
        1.
        """
        move = position.action(absolute)
        action = move if legend is None else legend.write(move)
        values = {"number": str(number), "move": PLAIN_WORDS.get(move, move), "action": action}
        return fill(self.history, values | self.observe(position))

    def present(self, number: int, position: Position, views: str | None) -> str:
        """Return the end of a prompt, with what is observed now: in words, or, where an image has
        the views in an order of that name, only whether this is an intersection.
        """
        values = {"number": str(number)} | self.observe(position)
        if views is not None:
            values["views"] = self.views.get(views, "")
        return fill(self._parts(views is not None)[1], values)

    def format_reply(
        self, position: Position, steps: Sequence[str], move: str, legend: Legend | None = None
    ) -> str:
        """Return a reply that makes a move, in the form that the prompt asks for."""
        values = {
            "observation": self.observe(position)["observation"],
            "step": self.named_step(steps, position.step),
            "move": PLAIN_WORDS.get(move, move),
            "action": move if legend is None else legend.write(move),
        }
        if self._replies_in_json:
            values = {key: _ENCODER.encode(value)[1:-1] for key, value in values.items()}
        return fill(self.reply, values)

    def feedback_to(self, finding: str, action: str | None, used: int, remaining: int) -> str:
        """Return the verifier's sentence on a reply with this finding, whose action reads so;
        `used` and `remaining` count the replies, with this one used.
        """
        text = self.feedback.get(finding, FEEDBACK[finding])
        if not MARK.search(text):
            return text
        values = {"action": (action or "")[:_MAX_ACTION]}
        return fill(text, values | {"used": str(used), "remaining": str(remaining)})

    def shows_legend(self, has_image: bool) -> bool:
        """Return whether the prompt has a place for a legend."""
        return _LEGEND_MARK.search(self._parts(has_image)[0]) is not None

    @property
    def names_move(self) -> bool:
        """Return whether replies name the move in plain words."""
        return "<<move>>" in self.reply

    def charset(self) -> set[str]:
        """Return every character that the texts themselves can bring into an observation."""
        values = [getattr(self, f.name) for f in fields(self)]
        texts = [text for v in values if v is not None for _, text in texts_in(v, "")]
        return set("".join(texts))

    def to_json(self) -> dict[str, Any]:
        """Return the content of a wording file; `read_wording` reads it back."""
        keys = [f.name for f in fields(self) if getattr(self, f.name) is not None]
        return {"format": FORMAT} | {key: to_lines(getattr(self, key)) for key in keys}

    def _parts(self, has_image: bool) -> tuple[str, str]:
        return self._image_parts if has_image else self._text_parts

    @cached_property
    def _text_parts(self) -> tuple[str, str]:
        return _halves(self.prompt)

    @cached_property
    def _image_parts(self) -> tuple[str, str]:
        if self.image_prompt is None:
            raise InputError("this wording has no image_prompt: it is for words only")
        return _halves(self.image_prompt)

    @cached_property
    def _replies_in_json(self) -> bool:
        try:
            json.loads(MARK.sub("", self.reply))
        except ValueError:
            return False
        return True


_LEGEND_MARK = re.compile(r"<<legend>>\n?")
_ENCODER = json.JSONEncoder(ensure_ascii=False)


def _halves(prompt: str) -> tuple[str, str]:
    """Return what stands before the history, and what after it."""
    before, _, after = prompt.partition("<<history>>")
    return before, after


_KEYS = '{"current observation": "...", "current instruction": "...", "action": "..."}'


def _worded(task: str, moves: str, form: str) -> Wording:
    """Return a wording from what its prompt says around the directions, the history and the
    observation: the task, the moves that there are ({names} stands for the directions), and the
    form of a reply.
    """
    opening = f"{task}<<instruction>><<moves>>So far:\n<<history>>Now: "
    return Wording(
        prompt=f"{opening}<<observation>>\n{form}",
        image_prompt=f"{opening}<<crossing>>.\n<<views>>{form}",
        steps={
            "turn": "Turn <<relative>>, to face <<compass>>.",
            "forward": "Move forward until the next intersection.",
            "forward_sight": "Move forward until the next intersection, where <<sight>>.",
            "arrive": "Move forward until the destination.",
            "arrive_sight": "Move forward until the destination, where <<sight>>.",
            "arrive_destination": "Move forward until the destination <<name>>, on your <<side>>.",
        },
        moves={
            "absolute": moves.format(names=", ".join(COMPASS)),
            "relative": moves.format(names=", ".join(RELATIVE)),
        },
        views={
            "aligned": "The image shows the street in four views: front, right / back, left.\n",
            "released": "The image shows the street in four views, at 135 degrees to the left, 45 "
            "to the left / 45 to the right, 135 to the right.\n",
            "aligned_apart": "The four images show the street: front, right, back, left.\n",
            "released_apart": "The four images show the street, at 135 degrees to the left, 45 to "
            "the left, 45 to the right, 135 to the right.\n",
        },
        nothing=dict.fromkeys(ROLES, NO_LANDMARK),
        crossing={"at": "you are at an intersection", "away": "you are not at an intersection"},
    )


OWN = _worded(
    "Walk to the destination by these directions, one move at a time.\n",
    "Moves: forward(), turn_direction(X) with X one of {names}, stop()\n",
    f"Reply with a JSON object and nothing else: {_KEYS}",
)
"""The project's own, which also stands in for what a file leaves out."""

_LEGEND_KEYS = _KEYS.replace('"action": "..."', '"move": "in words", "action": "as written"')


def _with_legend(text: str) -> str:
    """Return one of the project's own prompts with a legend, and with the form of a reply that goes
    with it.
    """
    text = text.replace(_KEYS, _LEGEND_KEYS)
    return text.replace("So far:\n", "How each move is written:\n<<legend>>\nSo far:\n")


OWN_LEGEND = replace(
    OWN,
    prompt=_with_legend(OWN.prompt),
    image_prompt=_with_legend(OWN.image_prompt or ""),
    # Each action after its plain words, as in the legend: who cannot read it yet still sees where
    # one is on the way.
    history="O_<<number>>: <<observation>>\nA_<<number>>: <<move>>: <<action>>\n",
    reply=OWN.reply.replace('"action"', '"move": "<<move>>", "action"'),
)
"""The same where moves are written by a legend (`gym_virl.legends`): a reply first names the move
in plain words."""

DIVERSE = (
    OWN,
    _worded(
        "You are on foot in a city. Follow the route below, step by step.\n",
        "Moves: you can call forward(), stop(), or turn_direction(X), X being {names}\n",
        f"Answer with this JSON object, filled in, and no other text: {_KEYS}",
    ),
    _worded(
        "These directions lead to a place. What is the next move?\n",
        "Moves: turn_direction(X), where X is {names}; forward(); stop()\n",
        f"Output format: {_KEYS}",
    ),
    _worded(
        "TASK navigation, one action per reply. ROUTE:\n",
        "Moves: forward() | turn_direction(X) | stop(), X in {names}\n",
        f"OUTPUT {_KEYS}",
    ),
    _worded(
        "Guide a pedestrian along this way, from the first step to the last.\n",
        "Moves: the pedestrian understands forward(), stop() and turn_direction(X) for {names}\n",
        f"Write down what is seen, the step that it belongs to and the move: {_KEYS}",
    ),
    _worded(
        "Please help me find the way. I was told:\n",
        "Moves: tell me forward(), stop(), or turn_direction(X) with one of {names} for X\n",
        f"Please reply in JSON only, with these keys: {_KEYS}",
    ),
)
"""The project's own and five others that mean the same (`gym_cards.paraphrases` says what for)."""

_VIEWS = (*HEADINGS, *(f"{order}{APART}" for order in HEADINGS))
_OBJECTS = {"moves": RULES, "views": _VIEWS, "nothing": ROLES, "crossing": CROSSING}
_WHOLE = ("moves", "nothing", "crossing")  # objects that must have all of their keys


def load_wording(path: str | Path) -> Wording:
    """Return the wording of a file. Raises InputError, naming the file and the key, for a file that
    cannot be read, a key or placeholder that is unknown, a prompt that leaves out what the task
    needs, and a form of reply that the verifier does not accept.
    """
    where = f"prompt_file {path}"
    return read_wording(read_json(path, where), where)


def read_wording(data: Any, where: str) -> Wording:
    """Return a wording from the content of its file; `where` opens the line of an error."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise InputError(f"{where}, key format: must be {FORMAT!r}")
    known = [f.name for f in fields(Wording)]
    values = {key: _read_key(key, value, known, where) for key, value in data.items()}
    del values["format"]
    for key in ("prompt", "steps"):
        if key not in values:
            raise InputError(f"{where}, key {key}: is missing")
    for key, allowed in _PLACEHOLDERS.items():
        for name, text in texts_in(values.get(key, {}), key):
            check_placeholders(text, allowed, f"{where}, key {name}")
    for name, text in values["steps"].items():
        check_placeholders(text, _STEP_VALUES[name], f"{where}, key steps.{name}")
    own = {key: getattr(OWN, key) for key in (*_WHOLE, "views")}
    wording = Wording(**(own | values))
    _check_meaning(wording, where)
    return wording


def _read_key(key: str, value: Any, known: Sequence[str], where: str) -> Any:
    at = f"{where}, key {key}"
    if key == "format":
        return value
    if key not in known:
        raise InputError(f"{at}: is unknown; must be one of {', '.join(known)}")
    if key in _WHOLE:
        check_keys(value, _OBJECTS[key], at)
    elif key == "views":
        check_keys_among(value, _OBJECTS[key], at)
    elif key == "feedback":
        check_keys_among(value, FEEDBACK, at)
    elif key == "steps":
        check_keys_among(value, STEPS, at)
        for name in STEPS:
            if name not in value and name not in _OPTIONAL_STEPS:
                raise InputError(f"{at}: key {name} is missing")
    else:
        return from_lines(value, at)
    return {name: from_lines(text, f"{at}.{name}") for name, text in value.items()}


def _check_meaning(wording: Wording, where: str) -> None:
    """Raise InputError for a wording under which the task cannot be done as it is meant."""
    for key in ("prompt", "image_prompt"):
        text = getattr(wording, key)
        needed = ["instruction", "moves", "history"]
        needed += ["observation"] if key == "prompt" and "<<sight>>" not in text else []
        for name in needed if text is not None else ():
            if f"<<{name}>>" not in text:
                raise InputError(f"{where}, key {key}: does not have <<{name}>>: put it there")
        before, after = _halves(text or "")
        for name in ("instruction", "moves", "legend"):
            if f"<<{name}>>" in after:
                raise InputError(f"{where}, key {key}: <<{name}>> must stand before <<history>>")
        for name in ("number", "observation", "sight", "crossing", "views"):
            if f"<<{name}>>" in before:
                raise InputError(f"{where}, key {key}: <<{name}>> must stand after <<history>>")
    for name in ("turn", "first_turn"):
        for value in ("<<relative>>", "<<compass>>"):
            if name in wording.steps and value not in wording.steps[name]:
                raise InputError(f"{where}, key steps.{name}: does not have {value}: put it there")
    _check_reading(wording, where)


def _check_reading(wording: Wording, where: str) -> None:
    """Raise InputError where the verifier would not read what this wording writes."""
    turn = Position("turn", (0.0, 0.0), 0.0, 0, "A is on your left", True, ("left", "west"))
    ahead = Position("forward", (0.0, 0.0), 0.0, 1)
    steps = wording.instruction_steps([Stretch(("left", "west"), None)])
    for position in (turn, ahead):
        if says_intersection(wording.observe(position)["observation"]) != position.is_intersection:
            raise InputError(
                f"{where}, keys observation and crossing: an observation says that one is at an "
                "intersection by that word, and only `at` one"
            )
        reply = wording.format_reply(position, steps, position.action(True))
        if not verify(reply, position, True).is_right:
            raise InputError(
                f"{where}, key reply: the verifier finds no action in a reply of this form; it "
                'needs an "action" that holds <<action>>'
            )
    if wording.moves["absolute"] == wording.moves["relative"]:
        raise InputError(f"{where}, key moves: says the same under both rules")
