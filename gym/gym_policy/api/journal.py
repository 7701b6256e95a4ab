"""A journal of replies: what has been paid for once is kept at once, and never asked for again."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gym_dialogue.errors import InputError
from gym_policy.api.endpoint import BROKEN_OFF, Answer


def request_key(request: Any) -> str:
    """Return a digest of a request that is plain data."""
    text = json.dumps(request, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Journal:
    """Replies by the key of their request, in a JSONL file that only grows, a line a reply.

    An error that an earlier version kept for a reply is passed over, to be asked for again. A line
    that was cut short when the process was killed is dropped; it is the last one. Threads
    may share a journal, processes may not. Raises InputError for a file that holds something
    else, or that another process has open.
    """

    def __init__(self, path: str | Path):
        self._answers: dict[str, Answer] = {}
        self._lock = threading.Lock()
        self._file = open(path, "a+b")  # noqa: SIM115 - open until close()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise InputError(
                f"{path}: another process is writing to it; wait for it, or stop it"
            ) from None
        try:
            self._read(path)
        except InputError:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Answer | None:
        """Return the reply to a request, if it has come before."""
        return self._answers.get(key)

    def add(self, key: str, answer: Answer) -> None:
        """Keep a reply. It is with the operating system when this returns."""
        line = json.dumps({"key": key, **asdict(answer)}).encode() + b"\n"
        with self._lock:
            self._answers[key] = answer
            self._file.write(line)
            self._file.flush()

    def close(self) -> None:
        """Let another process have the file."""
        self._file.close()

    def _read(self, path: str | Path) -> None:
        self._file.seek(0)
        whole = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                record = json.loads(line)
                key, answer = record.pop("key"), Answer(**record)
                if answer.finish_reason not in BROKEN_OFF:
                    self._answers[key] = answer
            except (ValueError, KeyError, TypeError, AttributeError):
                raise InputError(
                    f"{path}, line {number}: is no reply that was kept here; remove the line"
                ) from None
            whole += len(line)
        os.ftruncate(self._file.fileno(), whole)
