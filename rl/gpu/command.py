"""The parts in turn, each in a process of its own that is ended when its time is up."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from gym_command.files import write_atomically
from gym_command.lock import ends_with_parent
from gym_dialogue import InputError
from rl.gpu.config import GpuConfig, Part
from rl.gpu.results import Results, Row

SECONDS: dict[Part, float] = {
    "device": 40,
    "llama_1b": 80,
    "llama_8b": 100,
    "vision": 90,
    "samplers": 50,
    "small": 110,
}
"""What each part may take of 8 minutes, and in proportion of another time."""
_WHOLE = 8.0
_RESERVE = 5.0  # seconds that are kept for the table
_LEAST = 5.0  # seconds in which no part could do anything


def main(config: GpuConfig) -> None:
    """Run the parts of the configuration and print the table; or the one part named, here."""
    if config.part is not None:
        from rl.gpu.parts import run_part  # torch and transformers, which the others do without

        run_part(config, config.part)
        return
    run_dir = Path(config.run_dir)
    results = Results(run_dir)
    if results.file.exists():
        raise InputError(f"run_dir={run_dir}: holds results already; name another")
    run_dir.mkdir(parents=True, exist_ok=True)
    end = time.time() + 60 * config.minutes - _RESERVE
    for index, part in enumerate(config.parts):
        left = end - time.time()
        is_last = index == len(config.parts) - 1
        share = left if is_last else min(left, SECONDS[part] * config.minutes / _WHOLE)
        if share < _LEAST:
            results.add(Row(part, "", "skipped: no time was left"))
            continue
        if fault := _run(config, part, share, results):
            results.add(Row(part, "", fault))
            print(results.rows()[-1], flush=True)
    table = results.table()
    write_atomically(run_dir / "table.md", table)
    print(f"\n{table}\nResults are in {run_dir}")


def _run(config: GpuConfig, part: Part, seconds: float, results: Results) -> str:
    """Run a part and print its rows as they come. Returns how it ended, in words; "" if well."""
    log = Path(config.run_dir) / f"{part}.log"
    arguments = [
        f"--part={part}",
        f"--deadline={time.time() + seconds}",
        f"--run_dir={config.run_dir}",
        f"--shapes={config.shapes}",
        f"--wheels={config.wheels}",
        f"--engines=[{','.join(config.engines)}]",
        f"--small_flags={list(config.small_flags)}",
    ]
    printed = len(results.rows())
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "rl.gpu", *arguments],
            stdout=file,
            stderr=file,
            start_new_session=True,
            preexec_fn=ends_with_parent(),
        )
        end = time.monotonic() + seconds
        try:
            while (code := process.poll()) is None and time.monotonic() < end:
                time.sleep(0.1)
                rows = results.rows()
                print(*rows[printed:], sep="\n", end="\n" * (len(rows) > printed), flush=True)
                printed = len(rows)
        finally:
            _end_group(process)
    rows = results.rows()[printed:]
    print(*rows, sep="\n", end="\n" * bool(rows), flush=True)
    if code is None:
        return f"ended after {seconds:.0f} s, with the rest not measured ({log})"
    if not code:
        return ""
    reason = _reason(log)
    return reason if reason.startswith("skipped") else f"failed: {reason} ({log})"


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group, with all in it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _reason(log: Path) -> str:
    """Return why a part failed: the last line of its log that names an error, else the last."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = [line.strip() for line in lines if line.strip()]
    named = [line for line in lines if re.match(r"error: |[\w.]*(Error|Exception)\b", line)]
    line = [*lines, *named][-1] if lines else "it left no log"
    return line.removeprefix("error: ")[:300].replace("|", "/")
