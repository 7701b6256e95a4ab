"""Going on with an interrupted run: its settings, its newest whole checkpoint, its logs."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from gym_dialogue import InputError
from rl.checkpoint import newest_whole
from rl.config import Config

# What may differ when a run goes on: it changes how the run is carried out, not what is learned.
_MAY_CHANGE = {
    "resume",
    "run_dir",
    "num_envs",
    "sampling_batch",
    "microbatch_size",
    "gradient_checkpointing",
    "save_every",
    "keep_last",
    "best_by",
    "log_dialogues",
    "trackers",
}


def resume_from(config: Config) -> Path | None:
    """The checkpoint to go on from; None where the run has left none and starts anew. For one rank:
    it reads every file of the checkpoint.

    Raises InputError for a directory that cannot be read, a run with other settings, and one in
    which no checkpoint is whole.
    """
    run_dir = Path(config.run_dir)
    file = run_dir / "config.yaml"
    if not run_dir.exists():
        return None
    try:
        before = yaml.safe_load(file.read_text()) if file.exists() else None
        _ = list(run_dir.iterdir())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(f"run directory {run_dir}: cannot be read: {reason}") from error
    if before is None:
        return None
    if not isinstance(before, dict):
        raise InputError(f"run directory {run_dir}: config.yaml is not a run's configuration")
    _refuse_changes(flat_settings(before), flat_settings(asdict(config)), run_dir)
    checkpoint, said = newest_whole(run_dir)
    for line in said:
        print(f"warning: {line}", file=sys.stderr)
    if checkpoint is None and said:
        raise InputError(f"run directory {run_dir}: none of its checkpoints is whole")
    if checkpoint is None:
        file.unlink(missing_ok=True)  # ended before its first checkpoint: start_run writes it anew
    return checkpoint


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


def _refuse_changes(before: dict[str, Any], now: dict[str, Any], run_dir: Path) -> None:
    for key in sorted(before.keys() | now.keys()):
        if key.partition(".")[0] in _MAY_CHANGE or before.get(key) == now.get(key):
            continue
        raise InputError(
            f"resume: {key}={now.get(key)}, but the run in {run_dir} has {before.get(key)}: leave "
            f"its settings as they are (--config={run_dir}/config.yaml), or start another run"
        )


def flat_settings(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
