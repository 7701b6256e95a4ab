"""Files of dialogues -> messages: JSONL of this project, or the LLaVA form of released SFT data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from gym_dialogue.checks import json_records, read_text
from gym_dialogue.errors import InputError
from gym_dialogue.images import check_image
from gym_dialogue.messages import Message

_LLAVA_ROLES: dict[str, Any] = {"system": "system", "human": "user", "gpt": "assistant"}
_IMAGE_MARKER = "<image>"


def read_dialogues(
    path: str | Path, image_folder: str | Path | None = None
) -> Iterator[list[Message]]:
    """Yield the dialogues of a file: JSONL, or one JSON list (told apart by what the file opens
    with).

    A record has `messages`, a list of {role, content} with an optional `trained`, or, in LLaVA
    form, `conversations`, a list of {from, value}. LLaVA form does not say which replies were
    right, so every gpt turn is trained, as LLaVA does, whatever a verifier says of it in the next.

    A dialogue may have one image, in its first user message: `image` of that message, or in LLaVA
    form of the record (a name, or a list of one), names a file in `image_folder`, by default the
    data file's own. `<image>` in a LLaVA text says where it stands; it is put before the text here.
    The text is kept as it is, its first and last newlines too, but for that marker (`_unmarked`).
    `puzzle` of a record is that of its first user message.

    Raises InputError, naming the line or the item, for a malformed record, an image that is
    elsewhere, and a file that is no image.
    """
    directory = Path(path).parent if image_folder is None else Path(image_folder)
    if not directory.is_dir():
        raise InputError(f"image_folder={image_folder}: is not a directory")
    is_empty = True
    for where, record in _records(path):
        is_empty = False
        yield _messages(record, f"data file {path}, {where}", directory)
    if is_empty:
        raise InputError(f"data file {path}: holds no dialogue")


def _records(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Yield (where it stands, record) of every record; None stands for one that is not JSON."""
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"data file {path}: cannot be read: {error}") from error
    if text.lstrip().startswith("["):
        try:
            records = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"data file {path}: is not a JSON list: {error}") from error
        for index, record in enumerate(records):
            name = f" (id {record['id']!r})" if isinstance(record, dict) and "id" in record else ""
            yield f"item {index}{name}", record
    else:
        for number, record in json_records(text):
            yield f"line {number}", record


def _messages(record: Any, where: str, directory: Path) -> list[Message]:
    named: list[Any] = []  # the image of each message
    try:
        is_llava = "conversations" in record
        if is_llava:
            messages = [
                Message(_LLAVA_ROLES[turn["from"]], turn["value"])
                for turn in record["conversations"]
            ]
        else:
            messages = [
                Message(m["role"], m["content"], trained=m.get("trained", True))
                for m in record["messages"]
            ]
            named = [m.get("image") for m in record["messages"]]
        well_formed = all(isinstance(m.text, str) for m in messages)
    except (KeyError, TypeError, AttributeError):
        well_formed = False
    if not well_formed or not _alternates([m.role for m in messages]):
        raise InputError(
            f"{where}: must be an object with `messages`, a list of {{role, content}} that "
            "alternates user and assistant, or with `conversations`, a list of {from, value} that "
            "alternates human and gpt; after an optional system message, and ending with a reply"
        )
    if not all(_is_text(m.text) for m in messages):
        raise InputError(
            f"{where}: holds half a surrogate pair (\\ud800 to \\udfff), which is no text"
        )
    first = next(i for i, m in enumerate(messages) if m.role == "user")
    if isinstance(puzzle := record.get("puzzle"), str):
        messages[first] = replace(messages[first], puzzle=puzzle)
    if is_llava:
        name = _only_image(record.get("image"), where)
        messages = _without_marker(messages, first, name is not None, where)
    else:
        name = named.pop(first)
    if record.get("images") or any(other is not None for other in named):
        raise InputError(f"{where}: has an image beside that of its first user message; give one")
    if name is None:
        return messages
    if not isinstance(name, str):
        raise InputError(f"{where}: image must be the name of one file")
    file = directory / name
    try:
        check_image(file)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    messages[first] = replace(messages[first], image=file)
    return messages


def _only_image(named: Any, where: str) -> Any:
    """Return what `image` of a LLaVA record names, a list of one as well as that one itself."""
    if isinstance(named, list):
        if len(named) > 1:
            raise InputError(f"{where}: image lists {len(named)} files; a dialogue may have one")
        named = named[0] if named else None
    return named or None


def _without_marker(
    messages: list[Message], first: int, has_image: bool, where: str
) -> list[Message]:
    """Return the messages of a LLaVA record without the marker of its image."""
    counts = [m.text.count(_IMAGE_MARKER) for m in messages]
    if sum(counts) != counts[first] or counts[first] > has_image:
        raise InputError(
            f"{where}: {_IMAGE_MARKER} must stand once, in the first human turn of a record with "
            "an `image`"
        )
    messages[first] = replace(messages[first], text=_unmarked(messages[first].text))
    return messages


def _unmarked(text: str) -> str:
    """Return a text without the marker; and without the newline that LLaVA puts between the two,
    which is there if the marker is all of the text's first line, or of its last, empty ones aside.
    """
    before, marker, after = text.partition(_IMAGE_MARKER)
    if marker and not before.strip("\n") and after.startswith("\n"):
        after = after[1:]
    elif marker and not after.strip("\n") and before.endswith("\n"):
        before = before[:-1]
    return before + after


def _is_text(value: str) -> bool:
    """Return whether a string can be written in UTF-8, which half a surrogate pair cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _alternates(roles: list[str]) -> bool:
    if roles[:1] == ["system"]:
        roles = roles[1:]
    pairs = len(roles) // 2
    return pairs > 0 and roles == ["user", "assistant"] * pairs
