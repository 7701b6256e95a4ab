"""The directory of a run: where each of its files lies, and how they are written, read and cut."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gym_command.checkpoints import has_model, remove_checkpoint, update_name, update_of
from gym_command.files import append_json, write_atomically
from gym_command.old_keys import rename_settings
from gym_dialogue.checks import is_integer, json_records, read_text
from gym_dialogue.errors import InputError

_OLD_METRICS = {"kl": "approx_kl", "kl_start": "ref_kl"}
"""Names of metrics in the logs of earlier versions."""


class RunDir(os.PathLike[str]):
    """The directory of a training run, an evaluation or a study. Making one touches no disk."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.metrics_file = self.path / "metrics.jsonl"
        self.dialogues_file = self.path / "dialogues.jsonl"
        self.data_file = self.path / "data.jsonl"
        self.images_dir = self.path / "images"
        self.checkpoints_dir = self.path / "checkpoints"
        self.evaluations_dir = self.path / "evaluations"
        self.weights_dir = self.path / "weights"
        self.tensorboard_dir = self.path / "tensorboard"
        self.table_file = self.path / "table.txt"
        self.summary_file = self.path / "summary.json"
        self.turns_file = self.path / "turns.jsonl"
        self.success_figure = self.path / "success.png"
        self.learning_figure = self.path / "learning.png"
        self.report_file = self.path / "report.html"

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"RunDir({str(self.path)!r})"

    # Settings

    def start(self, config: Any) -> None:
        """Make the directory and write a run's resolved configuration.

        Raises InputError if it cannot be written, or already holds another run.
        """
        if self.holds_run():
            raise InputError(
                f"run directory {self}: already holds a run; name another with --run_dir, or "
                "remove it"
            )
        try:
            self.write_config(config)
        except InputError as error:
            raise InputError(f"run directory: {error}; name another with --run_dir") from error

    def write_config(self, config: Any) -> None:
        """Write the configuration over what was there. Raises InputError if the disk refuses."""
        import yaml

        write_atomically(self.config_file, yaml.safe_dump(asdict(config), sort_keys=False))

    def settings(self) -> dict[str, Any]:
        """Read the configuration; empty where there is none.

        Raises InputError for a file that cannot be read.
        """
        import yaml

        if not self.config_file.is_file():
            return {}
        try:
            settings = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{self.config_file}: cannot be read: {reason}") from error
        return settings if isinstance(settings, dict) else {}

    def readable_settings(self) -> dict[str, Any]:
        """Read the configuration; empty where there is none, or the file is damaged."""
        try:
            return self.settings()
        except InputError:
            return {}

    def holds_run(self) -> bool:
        """Return whether the directory holds what a run would lose if another started there."""
        return bool(self.readable_settings()) or any(self.checkpoints_dir.glob("update-*[0-9]"))

    def holds_run_of(self, config: Any, may_change: Collection[str]) -> bool:
        """Return whether the directory holds a run, which must then be one with these settings, but
        for the top-level keys in `may_change`.

        Raises InputError for a directory that cannot be read, and for a run with other settings.
        """
        if not self.path.exists():
            return False
        try:
            _ = list(self.path.iterdir())
        except OSError as error:
            raise InputError(f"run directory {self}: cannot be read: {error.strerror}") from error
        settings = self.readable_settings()
        if not settings:
            if self.holds_run():
                raise InputError(
                    f"run directory {self}: has checkpoints, but no config.yaml that can be read: "
                    "put the run's settings there again, or name another --run_dir"
                )
            return False
        before = flat_settings(rename_settings(type(config), settings))
        now = flat_settings(asdict(config))
        defaults = flat_settings(asdict(type(config)()))  # of keys that are newer than the run
        for key in sorted(before.keys() | now.keys()):
            had = before.get(key, defaults.get(key))
            if key.partition(".")[0] in may_change or had == now.get(key):
                continue
            raise InputError(
                f"resume: {key}={now.get(key)}, but the run in {self} has {had}: leave "
                f"its settings as they are (--config={self.config_file}), or start another run"
            )
        return True

    # Logs

    def append_metrics(self, update: int, metrics: dict[str, Any]) -> None:
        """Append the record of an update. Raises InputError if the disk does not take it."""
        append_json(self.metrics_file, {"update": update} | metrics)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Read the records of all updates, under the present names of metrics; none where there is
        no file.

        Raises InputError for a file that is damaged.
        """
        if not self.metrics_file.is_file():
            return []
        try:
            text = read_text(self.metrics_file)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.metrics_file}: cannot be read: {error}") from error
        rows: list[dict[str, Any]] = []
        for number, row in json_records(text):
            if not isinstance(row, dict) or not is_integer(row.get("update")):
                where = f"{self.metrics_file}, line {number}"
                raise InputError(f"{where}: is no record of an update; remove the line")
            rows.append({_OLD_METRICS.get(str(name), str(name)): row[name] for name in row})
        return rows

    def evaluation(self, update: int) -> Path:
        """Return the file of an evaluation's records after an update."""
        return self.evaluations_dir / f"{update_name(update)}.json"

    def image(self, update: int, number: int) -> Path:
        """Return the file of an image in the dialogues that are logged of an update."""
        return self.images_dir / f"{update_name(update)}-{number}.png"

    # Checkpoints

    def checkpoint(self, update: int) -> Path:
        """Return the folder of the checkpoint after an update; 0 is the initial one."""
        return self.checkpoints_dir / update_name(update)

    def saved_checkpoints(self) -> list[Path]:
        """Return the checkpoints that hold a model, oldest first."""
        named = self.checkpoints_dir.glob("update-*")
        saved = [path for path in named if update_of(path) is not None and has_model(path)]
        return sorted(saved, key=lambda path: update_of(path) or 0)

    def saved_updates(self) -> list[int]:
        """Return the updates that have a checkpoint, in order."""
        return [update_of(path) or 0 for path in self.saved_checkpoints()]

    def prune(self, keep_last: int, score: Callable[[Path], float | None]) -> None:
        """Remove all checkpoints but the initial one, the newest `keep_last` (at least 1) and the
        best: that of the highest `score`, the earliest of equals.
        """
        saved = self.saved_checkpoints()
        scores = {path: score(path) for path in saved[1:]}
        scored = {path: value for path, value in scores.items() if value is not None}
        best = max(scored, key=lambda path: scored[path], default=None)
        for path in saved[1:-keep_last]:
            if path != best:
                remove_checkpoint(path)

    # Going back

    def cut_after(self, update: int) -> None:
        """Remove what belongs to later updates than the one that a run goes back to: log records,
        checkpoints, evaluations.
        """
        for log in (self.metrics_file, self.dialogues_file):
            _cut_log(log, update)
        for path in self.saved_checkpoints():
            if (update_of(path) or 0) > update:
                remove_checkpoint(path)
        for file in self.evaluations_dir.glob("update-*.json"):
            if (update_of(file.with_suffix("")) or 0) > update:
                file.unlink()

    def clear(self) -> None:
        """Remove what a run left that ended before there was anything to go on from."""
        for file in (self.config_file, self.metrics_file):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.checkpoints_dir, ignore_errors=True)


def _cut_log(log: Path, update: int) -> None:
    """Drop the records of later updates from a JSONL file. A last line that was being written is
    dropped in silence; other damaged lines with a warning.
    """
    if not log.is_file():
        return
    kept, damaged = [], 0
    text = log.read_text(encoding="utf-8", errors="replace")
    lines, records = text.split("\n"), json_records(text)
    for number, record in records:
        try:
            if record["update"] <= update:
                kept.append(f"{lines[number - 1]}\n")
        except (TypeError, KeyError):
            damaged += number < records[-1][0]
    if damaged:
        print(f"warning: {log}: {damaged} damaged lines are dropped", file=sys.stderr)
    write_atomically(log, "".join(kept))


def saved_checkpoints(path: str) -> list[str]:
    """Return the checkpoints that a user means by a path: the first and the last one of a run's
    directory (one with `checkpoints/` in it), otherwise the path itself.

    What is no directory here is taken for a hub name if it has the form of one. Raises InputError
    for a directory without a checkpoint, and for a path that does not exist.
    """
    directory = Path(path)
    if not directory.is_dir():
        if directory.is_absolute() or path.startswith((".", "~")) or path.count("/") != 1:
            raise InputError(f"checkpoint {path}: no such directory")
        return [path]
    if has_model(directory):
        return [str(directory)]
    saved = RunDir(directory).saved_checkpoints()
    if not saved:
        raise InputError(
            f"checkpoint {path}: holds neither config.json nor checkpoints/update-*/config.json; "
            "name a directory saved by save_pretrained, or a run's directory"
        )
    return [str(path) for path in dict.fromkeys((saved[0], saved[-1]))]


def flat_settings(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
