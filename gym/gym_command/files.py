"""Files that are written whole or not at all, even when the disk is full."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from gym_dialogue.errors import InputError


@contextmanager
def atomic_file(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file to write ("w" text, "wb" bytes) that takes its name once it is complete and on
    the disk. Raises InputError if it cannot be written; a previous file then stays untouched.
    """
    file = Path(path)
    partial = file.with_name(f"{file.name}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, file)
        to_disk(file.parent)
    except OSError as error:
        raise InputError(f"{file}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def write_atomically(file: str | Path, text: str) -> None:
    """Write a text file whole or not at all. Raises InputError if it cannot be written."""
    with atomic_file(file) as stream:
        stream.write(text)


def append_json(path: str | Path, *records: dict[str, Any]) -> None:
    """Append records to a JSONL file, all or none. Raises InputError if they cannot be written."""
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    try:
        with open(path, "ab", buffering=0) as file:
            before = file.tell()
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def to_disk(path: Path) -> None:
    """Wait until a file, or the entries of a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems cannot sync a directory
            raise
    finally:
        os.close(descriptor)
