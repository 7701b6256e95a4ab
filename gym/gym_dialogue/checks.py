"""Checks of arguments and files that the environments share; each raises InputError."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gym_dialogue.errors import InputError


def is_integer(value: Any) -> bool:
    """Return whether a value is an integer, which True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_choice(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """Raises InputError unless the argument `name` is one of the allowed values."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise InputError(f"{name}={value!r}: must be one of {', '.join(map(str, allowed))}")


def read_text(path: str | Path) -> str:
    """Return the content of a text file in UTF-8, without the byte-order mark that some editors
    write.

    Raises OSError and UnicodeDecodeError.
    """
    return Path(path).read_text(encoding="utf-8-sig")


def json_records(text: str) -> list[tuple[int, Any]]:
    """Read JSONL: (line number from 1, value) of each line that is not blank. The value is None for
    a line that is no JSON.

    Lines end at a newline and nowhere else: str.splitlines also takes what may stand inside a JSON
    string, such as U+2028, for the end of a line.
    """
    records = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append((number, json.loads(line)))
        except (ValueError, RecursionError):  # nested beyond the decoder's stack
            records.append((number, None))
    return records


def read_json(path: str | Path, where: str) -> Any:
    """Return the content of a JSON file; `where` opens the line of an error.

    Raises InputError for a file that cannot be read, or is not JSON, or not all of it.
    """
    try:
        value = json.loads(read_text(path))
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
        return value
    except OSError as error:
        raise InputError(f"{where}: cannot be read: {error.strerror}") from error
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: holds half a surrogate pair, {error.object[error.start]!r}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not whole JSON: {error}") from error
