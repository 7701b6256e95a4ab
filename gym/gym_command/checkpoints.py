"""Where the checkpoints of a run lie, and which one a user means by a path."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from gym_dialogue.errors import InputError

TRAINING_DIR = "training"
MODEL_FILES = ("config.json", "adapter_config.json")


def saved_checkpoints(path: str) -> list[str]:
    """The checkpoints that a user means by a path: the first and the last one of a run's
    directory (one with `checkpoints/` in it), otherwise the path itself.

    What is no directory here is taken for a hub name if it has the form of one. Raises InputError
    for a directory without a checkpoint, and for a path that does not exist.
    """
    directory = Path(path)
    if not directory.is_dir():
        if directory.is_absolute() or path.startswith((".", "~")) or path.count("/") != 1:
            raise InputError(f"checkpoint {path}: no such directory")
        return [path]
    if any((directory / name).is_file() for name in MODEL_FILES):
        return [str(directory)]
    saved = run_checkpoints(directory)
    if not saved:
        raise InputError(
            f"checkpoint {path}: holds neither config.json nor checkpoints/update-*/config.json; "
            "name a directory saved by save_pretrained, or a run's directory"
        )
    return [str(path) for path in dict.fromkeys((saved[0], saved[-1]))]


def checkpoint_dir(run_dir: str | Path, update: int) -> Path:
    """Where the checkpoint after an update (0: the start) lies."""
    return Path(run_dir) / "checkpoints" / f"update-{update:06d}"


def training_file(checkpoint: str | Path, name: str) -> Path:
    """Where a checkpoint keeps a file of its training state: below the model's folder, whose
    weights are the model's alone, as inference servers take every `*.safetensors` there for them.
    Checkpoints of earlier versions have it beside the model.
    """
    file = Path(checkpoint) / TRAINING_DIR / name
    earlier = Path(checkpoint) / name
    return earlier if earlier.exists() and not file.exists() else file


def run_checkpoints(run_dir: str | Path) -> list[Path]:
    """The checkpoints of a run's directory, oldest first."""
    found = (Path(run_dir) / "checkpoints").glob("update-*")
    whole = [p for p in found if update_of(p) is not None]
    whole = [p for p in whole if any((p / name).is_file() for name in MODEL_FILES)]
    return sorted(whole, key=lambda path: update_of(path) or 0)


def update_of(path: Path) -> int | None:
    """The update in the name of a checkpoint, or of a file without its suffix; None for another
    name.
    """
    number = path.name.removeprefix("update-")
    named = path.name != number and number.isascii() and number.isdigit()
    return int(number) if named else None


def drop_checkpoints_after(run_dir: str | Path, update: int) -> None:
    """Remove a run's checkpoints of updates after one that it goes back to."""
    for path in run_checkpoints(run_dir):
        if (update_of(path) or 0) > update:
            remove_checkpoint(path)


def remove_checkpoint(checkpoint: Path) -> None:
    """Remove a checkpoint, or other state; what is removed in part does not go by its name."""
    partial = checkpoint.with_name(f"{checkpoint.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    os.replace(checkpoint, partial)
    shutil.rmtree(partial, ignore_errors=True)
