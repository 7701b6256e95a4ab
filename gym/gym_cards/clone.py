"""Read the wording of GeneralPoints from a clone of the released code, which is never run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gym_cards.align import find_values, put
from gym_cards.prompts import FORMAT, PARTLY_RIGHT, kind_of, read_wording
from gym_cards.verifier import (
    FEEDBACK,
    FINDINGS,
    ILLEGAL_FORMULA,
    INCORRECT_NUMBER,
    INCORRECT_VISION,
    NO_SOLUTION,
    PARTIAL_SOLUTION,
)
from gym_dialogue.errors import InputError
from gym_dialogue.source import (
    Field,
    Found,
    Parts,
    Source,
    choose,
    fields_of,
    find_constant,
    format_parts,
    plain,
    read_source,
    verdict_frame,
    verdict_joint,
)
from gym_dialogue.templates import refuse_marks, to_lines

PROMPT, IMAGE_PROMPT, REPLY = "Q_GeneralPoint_EQN_L", "Q_GeneralPoint_EQN_VL", "ResponseEqn"
"""Names of the constants that the released configurations use."""

_LIST = {"quote": "'", "separator": ", "}  # how the released code writes a list of cards
_CARDS, _NUMBERS = "[<<cards>>]", "[<<numbers>>]"
_TARGETS = ("target_number", "target_points", "target")
_WORDS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}


def derive_from_clone(
    root: str | Path, prompt: str | None = None, image_prompt: str | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Return (content of a wording file, lines on where it comes from). `prompt` and `image_prompt`
    name other constants than the released configurations use. Raises InputError, naming the clone,
    for what is not found in it.
    """
    source = read_source(root)
    data: dict[str, Any] = {"format": FORMAT, "cards": _LIST}
    phrases: dict[str, dict[str, str]] = {}
    names = {
        "prompt": _constant(source, prompt, PROMPT, ("cards",), ()),
        "image_prompt": _constant(source, image_prompt, IMAGE_PROMPT, (), ("cards",)),
    }
    summary = []
    for key, name in names.items():
        if name is not None:
            data[key] = _prompt(source, name, phrases)
        summary.append(f"{key}: {f'constant {name}' if name else 'not found'}")
    if "prompt" not in data:
        raise InputError(
            f"{root}: no constant named {prompt or PROMPT}, nor another with {{cards}} in it, is "
            "in its files: give a clone of the released code, or name the constant with --prompt"
        )
    data["phrases"] = phrases
    reply = _constant(source, None, REPLY, ("cards", "numbers", "formula"), ())
    if reply is not None:
        data["reply"] = _reply(source.constants[reply])
        data["reply_cards"] = _LIST
        summary.append(f"reply: constant {reply}; with the target after the formula")
    else:
        summary.append("reply: not found; the project's own")
    size = _number_of_cards(data["prompt"])
    if size is not None:
        data["num_cards"] = size
    summary += _add_feedback(source, data)
    data = {key: to_lines(value) for key, value in data.items()}
    read_wording(data, f"the wording of {root}")
    return data, summary


def _constant(
    source: Source,
    name: str | None,
    usual: str,
    needed: Sequence[str],
    excluded: Sequence[str],
) -> str | None:
    """Return the name of the constant to use: the one asked for, the usual one, or the first with
    the fields of its kind; None if there is none.
    """
    constant = find_constant(source, name, usual)
    if constant is not None:
        return constant
    for other, text in source.constants.items():
        try:
            fields = fields_of(format_parts(text, other))
        except InputError:
            continue
        is_prompt = needed[1:] or any(target in fields for target in _TARGETS)
        known = {*_TARGETS, "cards", "numbers", "number", "formula"}
        is_prompt = is_prompt and all(f in known or source.labelled(f) for f in fields)
        if is_prompt and set(needed) <= set(fields) and not set(excluded) & set(fields):
            return other
    return None


def _prompt(source: Source, name: str, phrases: dict[str, dict[str, str]]) -> str:
    text = ""
    for part in format_parts(source.constants[name], f"{source.root}, constant {name}"):
        if isinstance(part, str):
            refuse_marks(part, source.root)
            text += part
        elif part.name in _TARGETS:
            text += "<<target>>"
        elif part.name == "cards":
            text += _CARDS
        else:
            text += _phrase(source, part.name, phrases)
    return text


def _phrase(source: Source, name: str, phrases: dict[str, dict[str, str]]) -> str:
    """Return the placeholder of a field whose text depends on what J, Q and K count as."""
    key = name.lower()
    if key in phrases:
        return f"<<{key}>>"
    texts: dict[str, str] = {}
    for labelled in source.labelled(name):
        for text in _leaves(labelled.parts):
            read = find_values(text, {})
            if read is not None:
                spots, rule = read
                refuse_marks(text, source.root)
                texts.setdefault(kind_of(rule), put(text, spots, kind_of(rule)))
    if set(texts) != {"same", "different"}:
        raise InputError(
            f"{source.root}: the texts of {{{name}}} are not found in its files, one that says "
            "that J, Q and K count the same, one that they do not"
        )
    phrases[key] = texts
    return f"<<{key}>>"


def _leaves(parts: Parts) -> list[str]:
    """Return the plain texts that an expression may be."""
    texts = (plain(choose(parts, otherwise)) for otherwise in (False, True))
    return [text for text in texts if text is not None]


def _reply(text: str) -> str:
    values = {
        "cards": _CARDS,
        "numbers": _NUMBERS,
        "number": _NUMBERS,
        "formula": "<<formula>>=<<target>>",
    }
    parts = format_parts(text, f"constant {REPLY}")
    return "".join(values.get(p.name, "") if isinstance(p, Field) else p for p in parts)


def _number_of_cards(prompt: str) -> int | None:
    """Return the number of cards, where a prompt fixes it in words or digits."""
    match = re.search(r"\b(\d|" + "|".join(_WORDS) + r")\b (?:playing )?cards\b", prompt, re.I)
    if match is None:
        return None
    return _WORDS.get(match[1].lower()) or int(match[1])


# Feedback.


def _add_feedback(source: Source, data: dict[str, Any]) -> list[str]:
    """Add the findings, what joins them, and what frames them; return lines on them."""
    findings: dict[str, str] = {}
    is_joined = {}
    for message in source.texts:
        kind = _kind(message)
        if kind is not None and kind not in findings:
            findings[kind] = _finding(message.parts, kind, source.root)
            is_joined[kind] = message.target != "return"
    if not findings:
        return ["feedback: not found; the project's own"]
    joint, frame = verdict_joint(source), verdict_frame(source)
    (separator, end), (before, after) = joint or (", ", "."), frame or ("", "")
    feedback = {}
    for outcome in FEEDBACK:
        if FEEDBACK[outcome]:
            # A message that is returned by itself is not joined, so it stands as it is.
            alone = outcome == INCORRECT_VISION and not is_joined.get("wrong_cards", False)
            feedback[outcome] = f"{before}<<findings>>{'' if alone else end}{after}"
    data["feedback"], data["findings"] = feedback, findings
    data["findings_separator"] = separator
    # A reply without a formula is read as one with foreign characters.
    if "foreign_character" in findings:
        findings.setdefault("unreadable", findings["foreign_character"])
    shown = feedback[ILLEGAL_FORMULA].replace("<<findings>>", f"...{separator}...")
    lines = [f"feedback: {', '.join(sorted(findings))}", f"feedback reads: {shown!r}"]
    missing = [kind for kind in (*FINDINGS, PARTLY_RIGHT) if kind not in findings]
    if missing:
        lines.append(f"feedback: not found, the project's own: {', '.join(missing)}")
    if joint is None:
        lines.append("feedback: what joins two messages is not found: taken to be ', ' and '.'")
    if frame is None:
        lines.append("feedback: what stands around a message is not found: taken to be nothing")
    return lines


def _kind(message: Found) -> str | None:
    """Return which finding a text of the released verifier is about; None for other texts. The
    verifier adds it with the key of its reward, under tests of the token that was met.
    """
    last = message.conditions[-1] if message.conditions else ""
    if message.label == INCORRECT_VISION:
        return "wrong_cards"
    if message.label == PARTIAL_SOLUTION:
        return "partial"
    if message.label == NO_SOLUTION:
        return PARTLY_RIGHT if fields_of(message.parts) else "wrong_value"
    if message.label == INCORRECT_NUMBER and message.conditions:
        if re.search(r"under|unused|missing|left", last):
            return "unused_numbers"
        is_else = any(condition.startswith("not ") for condition in message.conditions[-2:])
        return "overused_numbers" if is_else or "over" in last else "foreign_numbers"
    if message.label == ILLEGAL_FORMULA:
        return _order_kind(message) if message.in_loop else "foreign_character"
    return None


def _order_kind(message: Found) -> str | None:
    """Return which token out of place a text is about, by the tests that hold where it is added."""
    tests = [test for test in message.conditions if not test.startswith("not ")]
    token = tests[0] if tests else ""
    if re.search(r"close|'\)'", token):
        return "close_order" if "prev" in message.conditions[-1] else "unmatched"
    if re.search(r"open|'\('", token):
        return "open_order"
    return next((f"{kind}_order" for kind in ("operator", "number") if kind in token), None)


def _finding(parts: Parts, kind: str, root: Path) -> str:
    text = ""
    for part in choose(parts, False):
        if isinstance(part, Field) and kind == PARTLY_RIGHT:
            text += "<<prefix>>"
        elif isinstance(part, Field):
            text += "<<offending>>" if "join(" in part.name else "[<<offending>>]"
        else:
            refuse_marks(part, root)
            text += part
    return text
