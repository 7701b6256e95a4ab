"""The wording of V-IRL navigation from a clone of the released code, read as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
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
    choose_at,
    fields_of,
    find_constant,
    format_parts,
    plain,
    read_source,
    verdict_frame,
    verdict_joint,
)
from gym_dialogue.templates import refuse_marks, to_lines
from gym_virl.prompts import FORMAT, OWN, read_wording
from gym_virl.routes import NO_LANDMARK
from gym_virl.verifier import FEEDBACK

PROMPT, IMAGE_PROMPT, REPLY = "Q_VIRL_L", "Q_VIRL_VL", "ResponseVIRL"
"""Names of the constants that the released configurations use."""

_INSTRUCTION, _MOVES, _HISTORY = "instruction", "action_space", "obs_act_seq"
_FIELDS = {
    "current_observation": "<<observation>>",
    "current_instruction": "<<step>>",
    "action": "<<action>>",
}

_MISSING = "not found; the project's own"
OWN_PRESENT = "Now: <<observation>>\n"

Name = Callable[[str], str]


def derive_from_clone(
    root: str | Path, prompt: str | None = None, image_prompt: str | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Return (content of a wording file, lines on where it comes from). `prompt` and `image_prompt`
    name other constants than the released configurations use. Raises InputError, naming the clone,
    for what is not found in it.
    """
    source = read_source(root)
    data: dict[str, Any] = {"format": FORMAT} | _moves(source)
    summary: list[str] = []
    sights = _sights(source)
    parts = {
        "steps": _steps(source),
        "step_line, reply_step": _step_line(source),
        "nothing, crossing, observation": sights,
        "history": _history(source),
    }
    for name, part in parts.items():
        data |= part
        summary.append(f"{name}: {'found' if part else _MISSING}")
    if sights and sights["nothing"]["start"] == sights["nothing"]["between"]:
        summary.append("nothing in sight: said at the start as between intersections")
    data.setdefault("steps", dict(OWN.steps))
    named = {"prompt": prompt, "image_prompt": image_prompt}
    for derived, lines in (_prompts(source, sights, named), _reply(source), _feedback(source)):
        data |= derived
        summary += lines
    data = {key: to_lines(value) for key, value in data.items()}
    read_wording(data, f"the wording of {root}")
    return data, summary


def _prompts(
    source: Source, sights: dict[str, Any], named: Mapping[str, str | None]
) -> tuple[dict[str, str], list[str]]:
    """Return (prompts by key, lines on them) from the constants of these names, or of the usual
    ones. Raises InputError where the prompt in words is not found.
    """
    prompts: dict[str, str] = {}
    lines: list[str] = []
    present, image_present = _present(source, sights)
    if present is None:
        lines.append(f"the end of the log: {_MISSING}")
    ends = {"prompt": present or OWN_PRESENT, "image_prompt": image_present or ""}
    for key, usual in (("prompt", PROMPT), ("image_prompt", IMAGE_PROMPT)):
        constant = find_constant(source, named[key], usual)
        if constant is not None:
            prompts[key] = _prompt(source, constant, ends[key])
        lines.append(f"{key}: {f'constant {constant}' if constant else 'not found'}")
    if "prompt" not in prompts:
        raise InputError(
            f"{source.root}: no constant named {named['prompt'] or PROMPT} is in its files: give a "
            "clone of the released code, or name the constant with --prompt"
        )
    if image_present is None:
        prompts.pop("image_prompt", None)
        lines.append("image_prompt: left out: how the log ends with an image is not found")
    return prompts, lines


def _reply(source: Source) -> tuple[dict[str, str], list[str]]:
    """Return (the form of a reply by its key, a line on it); nothing where there is none."""
    if REPLY not in source.constants:
        return {}, []
    parts = format_parts(source.constants[REPLY], f"{source.root}, constant {REPLY}")
    form = _text(parts, lambda name: _FIELDS.get(name, ""), source.root)
    return {"reply": form}, [f"reply: constant {REPLY}"]


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
    """Return the template of a text: `name` gives the placeholder of a field."""
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
    """Return the moves under both rules: texts that name turn_direction and the directions of one
    rule.
    """
    texts: dict[str, dict[str, bool]] = {"absolute": {}, "relative": {}}
    for passage in source.texts:
        text = _text(choose(passage.parts, False), lambda _: "", source.root)
        if "turn_direction(x)" in text.lower() and "forward()" in text and "stop()" in text:
            rule = "absolute" if "northeast" in text else "relative"
            if rule == "absolute" or "slightly left" in text:
                named = f"{passage.target} {passage.function} {passage.label}".lower()
                texts[rule][text] = texts[rule].get(text, False) or _MOVES in named
    moves: dict[str, str] = {}
    for rule, candidates in texts.items():
        chosen = [text for text, is_named in candidates.items() if is_named] or list(candidates)
        if len(chosen) > 1:
            raise InputError(
                f"{source.root}: has {len(chosen)} texts for {{{_MOVES}}} with the same moves; "
                "must have one"
            )
        if chosen:
            moves[rule] = chosen[0]
    if set(moves) != {"absolute", "relative"}:
        raise InputError(
            f"{source.root}: the texts of {{{_MOVES}}} are not found in its files, one with "
            "compass names for turn_direction(x), and one with left and right"
        )
    return {"moves": moves}


# The directions.


def _step_name(name: str) -> str:
    for word, mark in (("landmark", "sight"), ("rel", "relative"), ("sight", "sight")):
        if word in name:
            return f"<<{mark}>>"
    return "<<compass>>" if re.search(r"head|dir|compass|abs", name) else ""


def _steps(source: Source) -> dict[str, Any]:
    """Return the sentences of the directions: those that are appended to a list in the function
    that names turns. A turn names two headings; the steps of the last leg are under a test of the
    length. None are taken where they do not all fit in.
    """
    turns = [
        passage
        for passage in source.texts
        if passage.target.endswith(".append")
        and {"<<relative>>", "<<compass>>"} <= {_step_name(n) for n in _field_names(passage.parts)}
    ]
    steps: dict[str, str] = {}
    for passage in source.texts if turns else ():
        if (passage.target, passage.function) != (turns[0].target, turns[0].function):
            continue
        names = [_step_name(name) for name in _field_names(passage.parts)]
        is_last = any("len(" in test for test in passage.conditions if not test.startswith("not "))
        written = {}
        for index, kind in ((0, "first_turn"), (1, "turn")):
            parts = choose_at(passage.parts, index)
            if parts is None or "" in names:
                return {}
            written[kind] = _text(parts, _step_name, source.root)
        if "<<relative>>" not in names:
            kind = "arrive" if is_last else "forward"
            written = {f"{kind}{'_sight' if '<<sight>>' in names else ''}": written["turn"]}
        elif is_last or written["first_turn"] == written["turn"]:
            written = {"turn": written["turn"]}
        if any(steps.setdefault(kind, text) != text for kind, text in written.items()):
            return {}
    for kind in ("arrive", "forward"):
        sight = steps.get(f"{kind}_sight")
        if sight is not None:
            steps.setdefault(kind, sight.replace("<<sight>>", NO_LANDMARK))
    needed = {"turn", "forward", "forward_sight", "arrive", "arrive_sight"}
    return {"steps": steps} if needed <= set(steps) else {}


def _field_names(parts: Parts) -> list[str]:
    return fields_of(choose(parts, False))


def _step_line(source: Source) -> dict[str, Any]:
    """Return a numbered step, added to the directions: two fields, the number first."""
    for passage in _added(source, in_loop=True):
        names = _field_names(passage.parts)
        if len(names) != 2 or not re.search(r"\+ ?1", names[0]):
            continue
        if re.search(r"instr|step", names[1]):
            marks = {names[1]: "<<step>>"} | {names[0]: "<<number>>"}
            text = _text(choose(passage.parts, False), marks.__getitem__, source.root)
            return {"step_line": text, "reply_step": "<<step>>"}
    return {}


def _added(source: Source, in_loop: bool) -> Iterable[Found]:
    """Return texts that are added to another in a loop, or outside of one."""
    return [
        passage
        for passage in source.texts
        if passage.in_loop == in_loop and passage.target.isidentifier() and fields_of(passage.parts)
    ]


# What is observed.


def _sights(source: Source) -> dict[str, Any]:
    """Return what is said of no sight and of intersections, and how the two are joined."""
    rail = source.labelled("intersection_observation")
    crossings = [text for passage in rail for text in _plain_texts(passage.parts) if text]
    beside = [t for t in source.texts if rail and (t.file, t.function) == _place(rail[0])]
    between = [t for f in beside if f.label == "observation" for t in _plain_texts(f.parts)]
    start = [
        text
        for passage in beside
        if "landmark" in passage.target and passage.target.endswith(".insert")
        for text in _plain_texts(passage.parts)
    ]
    joined = [
        _text(passage.parts, _sight_name, source.root)
        for passage in source.texts
        if {_sight_name(name) for name in fields_of(passage.parts)} == {"<<sight>>", "<<crossing>>"}
    ]
    if not (between and crossings and joined):
        return {}
    nothing = {"start": (start or between)[0], "between": between[0]}
    nothing |= {"intersection": NO_LANDMARK, "destination": NO_LANDMARK}
    at = next((t for f in rail if (t := plain(choose_at(f.parts, 1) or (Field(""),)))), None)
    away = next((t for f in rail if (t := plain(f.parts)) is not None), "")
    return {
        "nothing": nothing,
        "crossing": {"at": at or crossings[0], "away": away},
        "observation": joined[0],
    }


def _place(passage: Found) -> tuple[Path, str]:
    return passage.file, passage.function


def _sight_name(name: str) -> str:
    if "inter" in name:
        return "<<crossing>>"
    return "<<sight>>" if "landmark" in name else "<<observation>>"


def _plain_texts(parts: Parts) -> list[str]:
    texts = [plain(choose(parts, otherwise)) for otherwise in (False, True)]
    return [text for text in texts if text is not None]


def _history_name(name: str) -> str:
    """Return the placeholder of what a line of the log has; empty where it is something else."""
    if "len(" in name or re.fullmatch(r"(?:i|j|k|n|idx|index|number|count)(?: \+ 1)?", name):
        return "<<number>>"
    for word, mark in (("act", "action"), ("inter", "crossing"), ("obs", "observation")):
        if word in name:
            return f"<<{mark}>>"
    return ""


def _log_lines(source: Source, in_loop: bool) -> list[Found]:
    """Return the lines of the log, observations and actions: `O_1: ...`, `A_1: ...`."""
    return [
        passage
        for passage in _added(source, in_loop)
        if re.match(r"[OA]\w*_", _start(passage.parts))
    ]


def _history(source: Source) -> dict[str, Any]:
    """Return what positions that were left add: an observation and an action, in a loop."""
    lines = _log_lines(source, in_loop=True)[:2]
    names = [_history_name(name) for line in lines for name in _field_names(line.parts)]
    if sorted(names) != ["<<action>>", "<<number>>", "<<number>>", "<<observation>>"]:
        return {}
    texts = [_text(choose(line.parts, False), _history_name, source.root) for line in lines]
    return {"history": "".join(texts)}


def _start(parts: Parts) -> str:
    return parts[0] if parts and isinstance(parts[0], str) else ""


def _present(source: Source, sights: dict[str, Any]) -> tuple[str | None, str | None]:
    """Return what the history ends with at the present position, in words and with an image; None
    where it is not found.
    """
    texts: dict[bool, str | None] = {True: "", False: ""}
    for passage in _log_lines(source, in_loop=False):
        tests = [test for test in passage.conditions if "language" in test]
        is_words = all(test.count("not ") % 2 == 0 for test in tests)
        parts = _with_crossing(passage.parts, sights)
        text = None
        if parts is not None and all(map(_history_name, fields_of(parts))):
            text = _text(parts, _history_name, source.root)
        for kind in (is_words,) if tests else (True, False):
            whole = texts[kind]
            is_second = bool(whole) and _start(passage.parts).startswith("O")
            texts[kind] = None if whole is None or text is None or is_second else whole + text
    words, image = texts[True] or None, texts[False] or None
    has_both = words is not None and "<<observation>>" in words
    return (words if has_both else None), (
        image if image and "<<observation>>" not in image else None
    )


def _with_crossing(parts: Parts, sights: dict[str, Any]) -> Parts | None:
    """Return the parts with the placeholder of the crossing for each choice of what is said of it;
    None where a choice is between other texts.
    """
    crossings = set((sights.get("crossing") or {}).values())
    known = [
        Field("inter") if isinstance(part, Choice) else part
        for part in parts
        if not isinstance(part, Choice) or {plain(part.then), plain(part.otherwise)} == crossings
    ]
    return tuple(known) if len(known) == len(parts) else None


# What the verifier says.


def _feedback(source: Source) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return (finding -> the verifier's sentence, by their key, and lines on them); no key where
    there are none.
    """
    joint, frame = verdict_joint(source), verdict_frame(source)
    (_, end), (before, after) = joint or (", ", "."), frame or ("", "")
    feedback: dict[str, str] = {}
    for passage in source.texts:
        kinds = _findings(passage)
        if not kinds or fields_of(choose(passage.parts, False)):
            continue  # what a sentence repeats of the position has no placeholder
        stop = "" if passage.target == "return" else end
        text = (
            before + _text(choose(passage.parts, False), lambda _: "", source.root) + stop + after
        )
        for kind in kinds:
            feedback.setdefault(kind, text)
    missing = [kind for kind in FEEDBACK if FEEDBACK[kind] and kind not in feedback]
    lines = [f"feedback: {', '.join(sorted(feedback)) or _MISSING}"]
    if feedback and missing:
        lines.append(f"feedback: not found, the project's own: {', '.join(missing)}")
    if feedback and joint is None:
        lines.append("feedback: what ends a message is not found: taken to be '.'")
    if feedback and frame is None:
        lines.append("feedback: what stands around a message is not found: taken to be nothing")
    return {"feedback": feedback} if feedback else {}, lines


def _findings(passage: Found) -> tuple[str, ...]:
    """Return which findings a text of the released verifier is about."""
    if passage.label == "INCORRECT_ACTION":
        return "wrong_move", "unreadable"
    if passage.label != "INCORRECT_OBS":
        return ()
    tests = [test for test in passage.conditions if not test.startswith("not (")]
    # A test compares a word with the reply's observation, and with the true one.
    sides = re.findall(r"['\"]\w+['\"] (not in|in) (\w+)", tests[-1] if tests else "")
    true = [how for how, name in sides if re.search(r"gt|true|truth|target|label|expect", name)]
    if len(sides) != 2 or len(true) != 1:
        return ()
    return ("missed_intersection",) if true == ["in"] else ("imagined_intersection",)
