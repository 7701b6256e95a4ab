"""The wording of V-IRL navigation from a clone of the released code, read as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gym_dialogue.errors import InputError
from gym_dialogue.source import (
    Choice,
    Field,
    Found,
    Parts,
    Source,
    choose,
    fields_of,
    format_parts,
    read_source,
    verdict_frame,
    verdict_joint,
)
from gym_dialogue.templates import refuse_marks, to_lines
from gym_virl.prompts import FORMAT, OWN, read_wording
from gym_virl.routes import NO_LANDMARK

PROMPT, IMAGE_PROMPT, REPLY = "Q_VIRL_L", "Q_VIRL_VL", "ResponseVIRL"
"""Names of the constants that the released configurations use."""

_INSTRUCTION, _MOVES, _HISTORY = "instruction", "action_space", "obs_act_seq"
_REPLY = {
    "current_observation": "<<observation>>",
    "current_instruction": "<<step>>",
    "action": "<<action>>",
}

_MISSING = "not found; the project's own"

Name = Callable[[str], str]


def derive_from_clone(
    root: str | Path, prompt: str | None = None, image_prompt: str | None = None
) -> tuple[dict[str, Any], list[str]]:
    """(content of a wording file, lines on where it comes from). `prompt` and `image_prompt` name
    other constants than the released configurations use. Raises InputError, naming the clone, for
    what is not found in it.
    """
    source = read_source(root)
    data: dict[str, Any] = {"format": FORMAT}
    summary: list[str] = []
    data |= _moves(source)
    parts = {
        "steps": _steps(source),
        "step_line, reply_step": _step_line(source),
        "nothing, crossing, observation": _sights(source),
        "history": _history(source),
    }
    present, image_present = _present(source)
    for name, found in parts.items():
        data |= found
        summary.append(f"{name}: {'found' if found else _MISSING}")
    data.setdefault("steps", dict(OWN.steps))
    for key, name, usual, last in (
        ("prompt", prompt, PROMPT, present),
        ("image_prompt", image_prompt, IMAGE_PROMPT, image_present),
    ):
        constant = _constant(source, name, usual)
        if constant is not None:
            data[key] = _prompt(source, constant, last)
            summary.append(f"{key}: constant {constant}")
    if "prompt" not in data:
        raise InputError(
            f"{root}: no constant named {prompt or PROMPT} is in its files: give a clone of the "
            "released code, or name the constant with --prompt"
        )
    if REPLY in source.constants:
        reply = format_parts(source.constants[REPLY], f"{root}, constant {REPLY}")
        data["reply"] = _text(reply, lambda name: _REPLY.get(name, ""), root)
        summary.append(f"reply: constant {REPLY}")
    feedback = _feedback(source)
    if feedback:
        data["feedback"] = feedback
    summary.append(f"feedback: {', '.join(sorted(feedback)) or _MISSING}")
    data = {key: to_lines(value) for key, value in data.items()}
    read_wording(data, f"the wording of {root}")
    return data, summary


def _constant(source: Source, name: str | None, usual: str) -> str | None:
    if name is not None and name not in source.constants:
        raise InputError(f"{source.root}: no constant named {name} is in its files")
    return name or (usual if usual in source.constants else None)


def _prompt(source: Source, name: str, present: str) -> str:
    places = {
        _INSTRUCTION: "<<instruction>>",
        _MOVES: "<<moves>>",
        _HISTORY: "<<history>>" + present,
    }
    parts = format_parts(source.constants[name], f"{source.root}, constant {name}")
    for field in fields_of(parts):
        if field not in places:
            raise InputError(
                f"{source.root}, constant {name}: has the field {{{field}}}; only "
                f"{', '.join(places)} are known"
            )
    return _text(parts, lambda field: places[field], source.root)


def _text(parts: Parts, name: Name, root: Path | str) -> str:
    """The template of a text: `name` gives the placeholder of a field."""
    text = ""
    for part in parts:
        if isinstance(part, Choice):
            text += _text(part.then, name, root)
        elif isinstance(part, Field):
            text += name(part.name)
        else:
            refuse_marks(part, root)
            text += part
    return text


def _moves(source: Source) -> dict[str, Any]:
    """The moves under both rules: texts that name turn_direction and the directions of one rule."""
    moves: dict[str, str] = {}
    for found in source.texts:
        text = _text(choose(found.parts, False), lambda _: "", source.root)
        if "turn_direction(x)" in text.lower() and "forward()" in text and "stop()" in text:
            rule = "absolute" if "northeast" in text else "relative"
            if rule == "absolute" or "slightly left" in text:
                moves.setdefault(rule, text)
    if set(moves) != {"absolute", "relative"}:
        raise InputError(
            f"{source.root}: the texts of {{{_MOVES}}} are not found in its files, one with "
            "compass names for turn_direction(x), and one with left and right"
        )
    return {"moves": moves}


# The directions.


def _step_name(name: str) -> str:
    if "landmark" in name:
        return "<<sight>>"
    return "<<relative>>" if "rel" in name else "<<compass>>"


def _steps(source: Source) -> dict[str, Any]:
    """The sentences of the directions: those that are appended to a list in the function that names
    turns. A turn names two headings; the steps of the last leg are under a test of the length.
    """
    turns = [
        found
        for found in source.texts
        if found.target.endswith(".append")
        and len({_step_name(name) for name in _field_names(found.parts)} - {"<<sight>>"}) == 2
    ]
    if not turns:
        return {}
    steps: dict[str, str] = {}
    for found in source.texts:
        if (found.target, found.function) != (turns[0].target, turns[0].function):
            continue
        names = [_step_name(name) for name in _field_names(found.parts)]
        is_last = any("len(" in test for test in found.conditions if not test.startswith("not "))
        if "<<relative>>" in names:
            first, other = (
                _text(choose(found.parts, otherwise), _step_name, source.root)
                for otherwise in (False, True)
            )
            steps["turn"] = other
            if first != other:
                steps["first_turn"] = first
        else:
            kind = "arrive" if is_last else "forward"
            kind += "_sight" if "<<sight>>" in names else ""
            steps[kind] = _text(choose(found.parts, False), _step_name, source.root)
    for kind in ("arrive", "forward"):
        sight = steps.get(f"{kind}_sight")
        if sight is not None:
            steps.setdefault(kind, sight.replace("<<sight>>", NO_LANDMARK))
    needed = {"turn", "forward", "forward_sight", "arrive", "arrive_sight"}
    return {"steps": steps} if needed <= set(steps) else {}


def _field_names(parts: Parts) -> list[str]:
    return fields_of(choose(parts, False))


def _step_line(source: Source) -> dict[str, Any]:
    """A numbered step, added to the directions: two fields, the number first."""
    for found in _added(source, in_loop=True):
        names = _field_names(found.parts)
        text = _text(
            choose(found.parts, False),
            lambda name, names=names: "<<number>>" if name == names[0] else "<<step>>",
            source.root,
        )
        if len(names) == 2 and re.search(r"\+ ?1", names[0]) and re.search(r"instr|step", names[1]):
            return {"step_line": text, "reply_step": "<<step>>"}
    return {}


def _added(source: Source, in_loop: bool) -> Iterable[Found]:
    """Texts that are added to another in a loop, or outside of one."""
    return [
        found
        for found in source.texts
        if found.in_loop == in_loop and found.target.isidentifier() and fields_of(found.parts)
    ]


# What is observed.


def _sights(source: Source) -> dict[str, Any]:
    """What is said where nothing is in sight, of intersections, and how the two are joined."""
    rail = source.labelled("intersection_observation")
    crossings = [text for found in rail for text in _plain_texts(found.parts) if text]
    beside = [t for t in source.texts if rail and (t.file, t.function) == _place(rail[0])]
    between = [t for f in beside if f.label == "observation" for t in _plain_texts(f.parts)]
    start = [
        text
        for found in beside
        if "landmark" in found.target and found.target.endswith(".insert")
        for text in _plain_texts(found.parts)
    ]
    joined = [
        _text(found.parts, _sight_name, source.root)
        for found in source.texts
        if {_sight_name(name) for name in fields_of(found.parts)} == {"<<sight>>", "<<crossing>>"}
    ]
    if not (between and crossings and joined):
        return {}
    nothing = {"start": (start or between)[0], "between": between[0]}
    nothing |= {"intersection": NO_LANDMARK, "destination": NO_LANDMARK}
    return {
        "nothing": nothing,
        "crossing": {"at": crossings[0], "away": ""},
        "observation": joined[0],
    }


def _place(found: Found) -> tuple[Path, str]:
    return found.file, found.function


def _sight_name(name: str) -> str:
    if "inter" in name:
        return "<<crossing>>"
    return "<<sight>>" if "landmark" in name else "<<observation>>"


def _plain_texts(parts: Parts) -> list[str]:
    texts = [choose(parts, otherwise) for otherwise in (False, True)]
    return ["".join(t) for t in texts if all(isinstance(part, str) for part in t)]


def _history_name(name: str) -> str:
    if "action" in name and "len(" not in name:
        return "<<action>>"
    if "len(" in name or re.search(r"\+ ?1", name):
        return "<<number>>"
    return "<<crossing>>" if "inter" in name else "<<observation>>"


def _history(source: Source) -> dict[str, Any]:
    """What positions that were left add: an observation and an action, in a loop."""
    lines = [
        _text(choose(found.parts, False), _history_name, source.root)
        for found in _added(source, in_loop=True)
        if re.match(r"[OA]\w*_", _start(found.parts))
    ]
    return {"history": "".join(lines[:2])} if len(lines) >= 2 else {}


def _start(parts: Parts) -> str:
    return parts[0] if parts and isinstance(parts[0], str) else ""


def _present(source: Source) -> tuple[str, str]:
    """What the history ends with at the present position, in words and with an image."""
    lines: dict[bool, list[str]] = {True: [], False: []}
    for found in _added(source, in_loop=False):
        if not re.match(r"[OA]\w*_", _start(found.parts)):
            continue
        tests = [test for test in found.conditions if "language" in test]
        is_words = all(test.count("not ") % 2 == 0 for test in tests)
        parts = _without_choices(found.parts)
        lines[is_words].append(_text(parts, _history_name, source.root))
    words, image = "".join(lines[True][:2]), "".join(lines[False][:2])
    return words or "Now: <<observation>>\n", image or "Now: <<crossing>>\n"


def _without_choices(parts: Parts) -> Parts:
    """The parts with a field for each choice: what depends on the position, such as whether it is
    an intersection.
    """
    return tuple(Field("inter") if isinstance(part, Choice) else part for part in parts)


# What the verifier says.


def _feedback(source: Source) -> dict[str, str]:
    before, after = verdict_frame(source)
    _, end = verdict_joint(source)
    feedback: dict[str, str] = {}
    for found in source.texts:
        if found.label not in ("INCORRECT_OBS", "INCORRECT_ACTION"):
            continue
        text = before + _text(found.parts, lambda _: "<<action>>", source.root) + end + after
        if found.label == "INCORRECT_ACTION":
            feedback.setdefault("wrong_move", text)
            feedback.setdefault("unreadable", text)
        else:
            test = next((t for t in reversed(found.conditions) if not t.startswith("not (")), "")
            # The reply's observation is tested first: it has the word and should not, or lacks it.
            lacks = re.match(r"\W*['\"]\w+['\"]\W+not in", test) is not None
            feedback.setdefault("missed_intersection" if lacks else "imagined_intersection", text)
    return feedback
