"""What a run has left, and going on with it: its settings and its logs, whatever trains."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gym_dialogue.errors import InputError


def check_same_run(config: Any, may_change: Collection[str]) -> bool:
    """Whether the directory `config.run_dir` holds a run; then it must be one with the settings of
    `config`, but for the top-level keys in `may_change`.

    Raises InputError for a directory that cannot be read, and for a run with other settings.
    """
    import yaml

    run_dir = Path(config.run_dir)
    file = run_dir / "config.yaml"
    if not run_dir.exists():
        return False
    try:
        before = yaml.safe_load(file.read_text()) if file.exists() else None
        _ = list(run_dir.iterdir())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(f"run directory {run_dir}: cannot be read: {reason}") from error
    if before is None:
        return False
    if not isinstance(before, dict):
        raise InputError(f"run directory {run_dir}: config.yaml is not a run's configuration")
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
        settings = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file}: cannot be read: {reason}") from error
    return settings if isinstance(settings, dict) else {}


def cut_logs(run_dir: Path, update: int) -> None:
    """Drop what the logs hold of updates after the checkpoint: they are played again."""
    for name in ("metrics.jsonl", "dialogues.jsonl"):
        file = run_dir / name
        if not file.is_file():
            continue
        kept = []
        for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                if line.endswith("\n") and json.loads(line)["update"] <= update:
                    kept.append(line)
            except ValueError:  # a line that was being written
                break
        write_atomically(file, "".join(kept))


def write_atomically(file: Path, text: str) -> None:
    """Write a file whole or not at all. Raises InputError if the disk does not take it."""
    partial = file.with_name(f"{file.name}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"{file}: cannot be written: {error.strerror}") from error


def flat_settings(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
