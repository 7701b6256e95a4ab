"""Going on with an interrupted run: its settings and its logs, whatever trains."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gym_dialogue.checks import json_lines
from gym_dialogue.errors import InputError
from gym_dialogue.files import write_atomically


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
    for key in sorted(was.keys() | now.keys()):
        if key.partition(".")[0] in may_change or was.get(key) == now.get(key):
            continue
        raise InputError(
            f"resume: {key}={now.get(key)}, but the run in {run_dir} has {was.get(key)}: leave "
            f"its settings as they are (--config={run_dir}/config.yaml), or start another run"
        )
    return True


def run_settings(run_dir: Path) -> dict[str, Any]:
    """The settings of the run in a directory; none where its config.yaml is missing, empty or
    damaged.
    """
    import yaml

    try:
        settings = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return settings if isinstance(settings, dict) else {}


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
        lines = json_lines(file.read_text(encoding="utf-8", errors="replace"))
        for number, line in enumerate(lines, start=1):
            try:
                if json.loads(line)["update"] <= update:
                    kept.append(f"{line}\n")
            except (ValueError, TypeError, KeyError):
                damaged += number < len(lines)  # the last one was being written
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
