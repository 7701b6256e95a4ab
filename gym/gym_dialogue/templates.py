"""Texts with placeholders `<<name>>`, and the JSON files that hold them (wording files).

All text but the placeholders stands for itself: braces, quotes, and white space at either end.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from gym_dialogue.errors import InputError

MARK = re.compile(r"<<([a-z][a-z0-9_]*|[JQK])>>")
"""A placeholder."""


def fill(text: str, values: Mapping[str, str]) -> str:
    """Put values in the place of their placeholders, in one pass: what is put in stays as it is."""
    return MARK.sub(lambda mark: values.get(mark[1], mark[0]), text)


def placeholders(text: str) -> set[str]:
    """Return the names of the placeholders in a text."""
    return {mark[1] for mark in MARK.finditer(text)}


def refuse_marks(text: str, where: Any) -> None:
    """Raises InputError for a foreign text that would be read as having a placeholder."""
    if mark := MARK.search(text):
        raise InputError(
            f"{where}: a text holds {mark[0]!r}, which a wording file would read as a "
            "placeholder: rename it there"
        )


def check_placeholders(text: str, allowed: Iterable[str], at: str) -> None:
    """Raises InputError, which opens with `at`, for a placeholder that is not among the allowed."""
    unknown = sorted(placeholders(text) - set(allowed))
    if unknown:
        known = ", ".join(f"<<{name}>>" for name in allowed) or "none"
        raise InputError(f"{at}: unknown placeholder <<{unknown[0]}>>; must be one of {known}")


def check_keys(value: Any, keys: Collection[str], at: str) -> None:
    """Raises InputError unless a value is an object with exactly these keys."""
    if not isinstance(value, dict) or set(value) != set(keys):
        raise InputError(f"{at}: must be an object with the keys {' and '.join(keys)}")


def check_keys_among(value: Any, keys: Collection[str], at: str) -> None:
    """Raises InputError unless a value is an object whose keys are among these."""
    if not isinstance(value, dict) or not set(value) <= set(keys):
        raise InputError(f"{at}: must be an object with keys of {', '.join(keys)}")


def texts_in(value: Any, name: str) -> list[tuple[str, str]]:
    """Return (where, text) of every text in a key's value, which is a text or an object of such."""
    if isinstance(value, str):
        return [(name, value)]
    return [pair for k, v in value.items() for pair in texts_in(v, f"{name}.{k}")]


def from_lines(value: Any, at: str) -> str:
    """Return a text that is written as a string or as a list of lines. Raises InputError for
    others.
    """
    lines = value if isinstance(value, list) else [value]
    if not lines or not all(isinstance(line, str) for line in lines):
        raise InputError(f"{at}: must be a string, or a list of lines")
    return "\n".join(lines)


def to_lines(value: Any) -> Any:
    """Return a text of several lines as a list of them, which is easier to edit; objects key by
    key.
    """
    if isinstance(value, Mapping):
        return {key: to_lines(v) for key, v in value.items()}
    return value.split("\n") if isinstance(value, str) and "\n" in value else value
