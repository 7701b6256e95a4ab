"""Reply text -> fields. The last candidate answers; strict JSON or by pattern; never raises.

The text may be of any length: what is bounded is how often something is tried, so that no reply
takes more than a few passes over it.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

_MAX_OBJECTS = 16  # how many "{" from the end are tried as the start of a JSON object
_MAX_MENTIONS = 16  # how many times that a field is named are tried, from the end
_MAX_BRACES = 64  # how many are looked at for the one that opens an answer
_MAX_INT_DIGITS = 18

_DECODER = json.JSONDecoder()
_OBJECT = re.compile(r"\{\s*\"")
_SPACE = re.compile(r"\s*")
_THINKING = re.compile(
    r"(?i:<\s?(?P<slash>/?)(?:\w{1,16}:)?(?:think|thinking|thought|reasoning)\s?>)"  # <seed:think>
    r"|\[(?P<mark>/?)THINK\]"
    r"|◁(?P<slant>/?)think▷"  # Kimi
    r"|<\|(?:begin|(?P<ends>end))_of_thought\|>"
    r"|<\|channel\|>(?P<channel>analysis|commentary|final)"
)
_STRING = re.compile(r"\s{0,64}(?:\"([^\"\n]*)\"|'([^'\n]*)'|([^\s\"',}][^\n,}]*))")
_LIST = re.compile(r"\s{0,64}\[([^\[\]{}]*)\]")


class _Candidate(NamedTuple):
    """What may be the answer: where it stands, and its fields if it is JSON."""

    start: int
    end: int
    data: dict[str, Any] | None


class _Mention(NamedTuple):
    """A field as it is written: where its key begins, and its value."""

    start: int
    name: str
    value: Any


def read_fields(reply: str, fields: Mapping[str, type]) -> dict[str, Any]:
    """Return the wanted fields of a reply, each None where it cannot be read.

    `fields` maps a field's name to `str` or `list`. A list comes back as a list of str and int.
    Where a reply holds several answers (a draft before the answer), the last one counts, with its
    own fields alone. It is read as JSON or, where it is none, field by field. Behind a JSON object,
    a field without quotes is an answer only where a line, a sentence or an object begins: to speak
    of `the formula: ...` takes nothing back. What stands in a thinking block is no answer.
    """
    if not isinstance(reply, str):
        return dict.fromkeys(fields)
    text = _without_thinking(reply)
    answer = _answer(text, fields)
    if answer is None:
        return dict.fromkeys(fields)
    if answer.data is not None:
        return {name: _checked(answer.data.get(name), kind) for name, kind in fields.items()}
    mentions = {name: _field(text, answer.start, name, kind) for name, kind in fields.items()}
    return {name: mention and mention.value for name, mention in mentions.items()}


def field_start(reply: str, name: str) -> int | None:
    """Return the offset in a reply of the field of that name that `read_fields` reads, with the
    quote before it; where none can be read, of the last one outside thinking; None if it has none.
    """
    text = _without_thinking(reply)
    answer = _answer(text, {name: str})
    if answer is None:
        keys = deque(_anywhere((name,)).finditer(text), maxlen=1)
        return _key_start(text, keys[0]) if keys else None
    if answer.data is not None:
        return _start_in_object(text, answer, name)
    mention = _field(text, answer.start, name, str)
    return mention and mention.start


def _without_thinking(reply: str) -> str:
    """Return the reply with line ends in the place of its thinking, so that offsets stay as they
    are. A block that is not closed goes on to the end; one that is not opened begins at the start.
    """
    blocks: list[tuple[int, int]] = []
    opened = None
    for tag in _THINKING.finditer(reply):
        closes = any(tag[part] for part in ("slash", "mark", "slant", "ends"))
        closes = closes or tag["channel"] == "final"
        if closes:
            if opened is None:
                blocks, opened = [], 0
            blocks.append((opened, tag.end()))
            opened = None
        elif opened is None:
            opened = tag.start()
    if opened is not None:
        blocks.append((opened, len(reply)))
    parts, end = [], 0
    for start, stop in blocks:
        parts += [reply[end:start], "\n" * (stop - start)]
        end = stop
    return "".join([*parts, reply[end:]])


def _answer(text: str, fields: Mapping[str, type]) -> _Candidate | None:
    """Return the last candidate of which a field can be read."""
    strict = _last_object(text, fields)
    start = 0 if strict is None else strict.end
    last = _last_mention(text, start, _in_form(tuple(fields)), fields)
    if last is None and strict is None:
        last = _last_mention(text, start, _anywhere(tuple(fields)), fields)
    if last is None:
        return strict
    return _Candidate(_opening(text, start, last.start), len(text), None)


def _last_object(text: str, fields: Iterable[str]) -> _Candidate | None:
    """Return the last JSON object that has one of the fields itself, not in an object within."""
    last, end = None, 0
    starts = deque((match.start() for match in _OBJECT.finditer(text)), maxlen=_MAX_OBJECTS)
    first = len(text) - len(text.lstrip())  # an answer and nothing else, whatever is nested in it
    for start in dict.fromkeys([first, *starts]):
        if start < end or not text.startswith("{", start):
            continue
        try:
            data, stop = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):  # not JSON, or nested beyond the decoder's stack
            continue
        if any(name in data for name in fields):
            last, end = _Candidate(start, stop, data), stop
    return last


def _opening(text: str, start: int, mention: int) -> int:
    """Return where the candidate that holds a mention begins, at `start` or later: at the brace
    that is open there, or else behind the last object before it.
    """
    depth, at, behind = 0, mention, start
    for _ in range(_MAX_BRACES):
        at = max(text.rfind("{", start, at), text.rfind("}", start, at))
        if at < 0:
            break
        if text[at] == "}":
            behind = max(behind, at + 1)
            depth += 1
        elif depth == 0:
            return at
        else:
            depth -= 1
    return behind


@lru_cache(maxsize=64)
def _anywhere(names: tuple[str, ...]) -> re.Pattern[str]:
    """Return a field's key, wherever it stands."""
    return re.compile(rf"(?<!\w)(?P<name>{'|'.join(map(re.escape, names))})[\"']?\s{{0,8}}:")


@lru_cache(maxsize=64)
def _in_form(names: tuple[str, ...]) -> re.Pattern[str]:
    """Return a field's key that is quoted, or where a line, a sentence or an object begins."""
    begins = r"(?:^|[\n{},.:;!?*>])[ \t]{0,8}(?:-[ \t]{1,8})?"
    return re.compile(rf"(?:[\"']|{begins}){_anywhere(names).pattern}")


def _last_mention(
    text: str, start: int, keys: re.Pattern[str], fields: Mapping[str, type]
) -> _Mention | None:
    """Return the last field whose value can be read."""
    for key in reversed(deque(keys.finditer(text, start), maxlen=_MAX_MENTIONS)):
        name = key["name"]
        read = _read_list if fields[name] is list else _read_string
        value = read(text, key.end())
        if value is not None:
            return _Mention(_key_start(text, key), name, value)
    return None


def _field(text: str, start: int, name: str, kind: type) -> _Mention | None:
    """Return the last field of that name in the candidate that begins at `start`."""
    for keys in (_in_form((name,)), _anywhere((name,))):
        mention = _last_mention(text, start, keys, {name: kind})
        if mention is not None:
            return mention
    return None


def _key_start(text: str, key: re.Match[str]) -> int:
    start = key.start("name")
    return start - 1 if start and text[start - 1] in "\"'" else start


def _start_in_object(text: str, answer: _Candidate, name: str) -> int:
    """Return where the key of a field of a JSON object stands: the last one with the value read."""
    keys = _anywhere((name,)).finditer(text, answer.start, answer.end)
    last = answer.start
    for number, key in enumerate(reversed(deque(keys, maxlen=_MAX_MENTIONS))):
        start = _key_start(text, key)
        last = start if number == 0 else last
        try:
            begin = len(text) - len(text[key.end() :].lstrip())
            value, _ = _DECODER.raw_decode(text, begin)
            if answer.data is not None and value == answer.data[name]:
                return start
        except (ValueError, RecursionError):  # in a string
            continue
    return last


def _checked(value: Any, kind: type) -> Any:
    if kind is str:
        return value if isinstance(value, str) else None
    if not isinstance(value, list):
        return None
    plain = all(isinstance(v, str | int) and not isinstance(v, bool) for v in value)
    return value if plain else None


def _read_string(text: str, at: int) -> str | None:
    match = _STRING.match(text, at)
    if match is None:
        return None
    double, single, bare = match.groups()
    return double if double is not None else single if single is not None else bare.strip()


def _read_list(text: str, at: int) -> list[str | int] | None:
    match = _LIST.match(text, at)
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
