"""What a run has left, and going on with it: its settings and its logs, whatever trains."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gym_command.files import write_atomically
from gym_dialogue.checks import json_records
from gym_dialogue.errors import InputError


def start_run(run_dir: str | Path, config: Any) -> Path:
    """Make a run's directory and write its resolved configuration there (config.yaml).

    Raises InputError if it cannot be written, or already holds another run.
    """
    import yaml

    path = Path(run_dir)
    if holds_run(path):
        raise InputError(
            f"run directory {path}: already holds a run; name another with --run_dir, or remove it"
        )
    try:
        write_atomically(path / "config.yaml", yaml.safe_dump(asdict(config), sort_keys=False))
    except InputError as error:
        raise InputError(f"run directory: {error}; name another with --run_dir") from error
    return path


def check_same_run(config: Any, may_change: Collection[str]) -> bool:
    """Whether the directory `config.run_dir` holds a run; then it must be one with the settings of
    `config`, but for the top-level keys in `may_change`.

    Raises InputError for a directory that cannot be read, and for a run with other settings.
    """
    run_dir = Path(config.run_dir)
    if not run_dir.exists():
        return False
    try:
        _ = list(run_dir.iterdir())
    except OSError as error:
        raise InputError(f"run directory {run_dir}: cannot be read: {error.strerror}") from error
    before = run_settings(run_dir)
    if not before:
        if holds_run(run_dir):
            raise InputError(
                f"run directory {run_dir}: has checkpoints, but no config.yaml that can be read: "
                "put the run's settings there again, or name another --run_dir"
            )
        return False
    was, now = flat_settings(before), flat_settings(asdict(config))
    defaults = flat_settings(asdict(type(config)()))  # of keys that are newer than the run
    for key in sorted(was.keys() | now.keys()):
        had = was.get(key, defaults.get(key))
        if key.partition(".")[0] in may_change or had == now.get(key):
            continue
        raise InputError(
            f"resume: {key}={now.get(key)}, but the run in {run_dir} has {had}: leave "
            f"its settings as they are (--config={run_dir}/config.yaml), or start another run"
        )
    return True


def read_settings(run: str | Path) -> dict[str, Any]:
    """The settings that a command left in a directory (config.yaml); none where it left none.

    Raises InputError for a file that cannot be read.
    """
    import yaml

    file = Path(run) / "config.yaml"
    if not file.is_file():
        return {}
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file}: cannot be read: {reason}") from error
    return settings if isinstance(settings, dict) else {}


def run_settings(run_dir: Path) -> dict[str, Any]:
    """The same, and none where the file is damaged."""
    try:
        return read_settings(run_dir)
    except InputError:
        return {}


def holds_run(run_dir: Path) -> bool:
    """Whether a directory holds what a run would lose if another were started there."""
    return bool(run_settings(run_dir)) or any((run_dir / "checkpoints").glob("update-*[0-9]"))


def cut_logs(run_dir: Path, update: int) -> None:
    """Drop what the logs hold of updates after the checkpoint: they are played again."""
    for name in ("metrics.jsonl", "dialogues.jsonl"):
        file = run_dir / name
        if not file.is_file():
            continue
        kept, damaged = [], 0
        text = file.read_text(encoding="utf-8", errors="replace")
        lines, records = text.split("\n"), json_records(text)
        for number, record in records:
            try:
                if record["update"] <= update:
                    kept.append(f"{lines[number - 1]}\n")
            except (TypeError, KeyError):
                damaged += number < records[-1][0]  # the last one was being written
        if damaged:
            print(f"warning: {file}: {damaged} damaged lines are dropped", file=sys.stderr)
        write_atomically(file, "".join(kept))


def flat_settings(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
