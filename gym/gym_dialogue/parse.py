"""Reply text -> fields. Strict JSON first, then each field by pattern; never raises."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

MAX_REPLY_CHARS = 16384
"""A longer reply is not read at all: no answer to these tasks comes near it."""

_MAX_OBJECTS = 16  # how many "{" from the end are tried as the start of a JSON object
_MAX_INT_DIGITS = 18

_DECODER = json.JSONDecoder()


def read_fields(reply: str, fields: dict[str, type]) -> dict[str, Any]:
    """The wanted fields of a reply, each None where it cannot be read.

    `fields` maps a field's name to `str` or `list`. A list comes back as a list of str and int.
    Where a reply holds several JSON objects (a draft before the answer), the last one counts.
    """
    empty = dict.fromkeys(fields)
    if not isinstance(reply, str) or len(reply) > MAX_REPLY_CHARS:
        return empty
    data = _last_object(reply, fields)
    if data is not None:
        return {name: _checked(data.get(name), kind) for name, kind in fields.items()}
    readers = {str: _find_string, list: _find_list}
    return {name: readers[kind](reply, name) for name, kind in fields.items()}


def field_start(reply: str, name: str) -> int | None:
    """The offset in a reply at which its last field of that name begins, with the quote before it;
    None if it has none.
    """
    match = _last_match(rf"[\"']?\b{re.escape(name)}[\"']?\s{{0,8}}:", reply)
    return match.start() if match else None


def _last_object(reply: str, fields: dict[str, type]) -> dict[str, Any] | None:
    for data in _objects(reply):
        if isinstance(data, dict) and any(name in data for name in fields):
            return data
    return None


def _objects(reply: str) -> Iterator[Any]:
    """The whole reply, if it is JSON; then the JSON objects in it, the last one first."""
    starts = [match.start() for match in re.finditer(r"\{", reply)]
    for start in [None, *reversed(starts[-_MAX_OBJECTS:])]:
        try:
            yield json.loads(reply) if start is None else _DECODER.raw_decode(reply, start)[0]
        except (ValueError, RecursionError):  # not JSON, or nested beyond the decoder's stack
            continue


def _checked(value: Any, kind: type) -> Any:
    if kind is str:
        return value if isinstance(value, str) else None
    if not isinstance(value, list):
        return None
    plain = all(isinstance(v, str | int) and not isinstance(v, bool) for v in value)
    return value if plain else None


def _last_match(pattern: str, reply: str) -> re.Match[str] | None:
    last = None
    for last in re.finditer(pattern, reply):  # noqa: B007 - the last one is wanted
        pass
    return last


def _find_string(reply: str, name: str) -> str | None:
    key = rf"[\"']?{re.escape(name)}[\"']?\s{{0,8}}:\s{{0,8}}"
    match = _last_match(key + r"(?:\"([^\"\n]*)\"|'([^'\n]*)'|([^\"'\n,}][^\n,}]*))", reply)
    if match is None:
        return None
    double, single, bare = match.groups()
    return double if double is not None else single if single is not None else bare.strip()


def _find_list(reply: str, name: str) -> list[str | int] | None:
    key = rf"[\"']?{re.escape(name)}[\"']?\s{{0,8}}:\s{{0,8}}"
    match = _last_match(key + r"\[([^\[\]{}]*)\]", reply)
    if match is None:
        return None
    items = [item.strip() for item in match.group(1).split(",")]
    return [_item(item) for item in items if item]


def _item(text: str) -> str | int:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    if text.isascii() and text.isdigit() and len(text) <= _MAX_INT_DIGITS:
        return int(text)
    return text
