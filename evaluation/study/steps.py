"""Runs the commands that a study is made of, one after the other, and keeps account of them."""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gym_command.files import append_json
from gym_command.launch import ASKING
from gym_command.lock import ends_with_parent
from gym_dialogue import InputError
from gym_dialogue.checks import json_records

_GLANCE = 2.0  # seconds between looks at how far a command is


class Steps:
    """Runs commands with their output in a log, says how far they are, and estimates the time that
    is left from what the same kind of step took under other seeds.

    `kinds` are the kinds of all steps that may still be needed, in order.

    Within `with steps`, a study that is asked to end (SIGTERM, Ctrl-C) passes that on to the
    command that runs and waits for it; then, or at once between two commands, it ends with code
    143 or 130.
    """

    def __init__(self, account: Path, kinds: Sequence[str]):
        self.account = account
        self._asked: int | None = None  # the signal that asked the study to end
        self._busy = False  # whether a command runs, or is being started
        self._child: subprocess.Popen | None = None
        self._before: dict[int, Any] = {}
        self.waiting = list(kinds)
        self.total = len(self.waiting)
        self.took: dict[str, list[float]] = {}
        if account.is_file():
            for _, step in json_records(account.read_text(encoding="utf-8", errors="replace")):
                with contextlib.suppress(ValueError, TypeError, KeyError):  # only an estimate
                    self.took.setdefault(step["kind"], []).append(float(step["seconds"]))

    def skip(self, kind: str) -> None:
        """Note that a step is done already."""
        self.waiting.remove(kind)

    def run(self, kind: str, job: str, command: Sequence[str], log: Path) -> str:
        """Run a command; returns what it printed on standard output.

        Raises InputError with the line that it said where its input was bad, and RuntimeError,
        naming the log, where it failed otherwise.
        """
        self.waiting.remove(kind)
        number = self.total - len(self.waiting)
        began = time.monotonic()
        print(f"[{number}/{self.total}] {job}: {kind}{self._left(kind)}", flush=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a", encoding="utf-8") as output:
            output.write(f"\n$ {shlex.join(command)}\n")
            output.flush()
            self._busy = True
            child = self._child = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
                preexec_fn=ends_with_parent(),
            )
            if self._asked is not None:  # while it was being started
                child.send_signal(signal.SIGTERM)
            printed = self._follow(child, log)
        if child.returncode == 0:
            seconds = time.monotonic() - began
            self.took.setdefault(kind, []).append(seconds)
            record = {"job": job, "kind": kind, "seconds": round(seconds, 1)}
            append_json(self.account, record)
        self._busy, self._child = False, None
        if self._asked is not None:
            raise SystemExit(128 + self._asked)
        if child.returncode == 2:
            raise InputError(f"{job}: {_error_line(log)} (log: {log})")
        if child.returncode:
            raise RuntimeError(
                f"{job}: {kind} ended with code {child.returncode}; its log is {log}"
            )
        return printed

    def __enter__(self) -> Steps:
        self._before = {number: signal.signal(number, self._receive) for number in ASKING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._asked is not None:
            print("\nInterrupted: run the study again to go on", flush=True)

    def _receive(self, number: int, frame: object) -> None:
        is_first, self._asked = self._asked is None, number
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)
        elif is_first and not self._busy:
            raise SystemExit(128 + number)

    def _follow(self, child: subprocess.Popen, log: Path) -> str:
        """Wait for a command and show, on a terminal, the last line of its progress."""
        shown = sys.stdout.isatty()
        while True:
            try:
                printed, _ = child.communicate(timeout=_GLANCE)
                break
            except subprocess.TimeoutExpired:
                if shown:
                    print(f"\r\x1b[K  {_last_line(log)[:110]}", end="", flush=True)
        if shown:
            print("\r\x1b[K", end="", flush=True)
        with open(log, "ab") as output:
            output.write(printed)
        return printed.decode(errors="replace")

    def _left(self, kind: str) -> str:
        """Say how long the steps that are left will take, as far as known."""
        known = [self.took[k] for k in [kind, *self.waiting] if k in self.took]
        if not known:
            return ""
        minutes = sum(sum(taken) / len(taken) for taken in known) / 60
        all_known = len(known) == len(self.waiting) + 1
        return f" ({'about' if all_known else 'at least'} {minutes:.0f} min left)"


def _last_line(log: Path) -> str:
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 400))
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _error_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    return errors[-1].removeprefix("error: ") if errors else "bad input"
