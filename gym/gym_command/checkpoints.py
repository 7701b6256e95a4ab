"""The folder of one checkpoint: which update it is of, and where its training state lies."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

TRAINING_DIR = "training"
MODEL_FILES = ("config.json", "adapter_config.json")


def has_model(directory: Path) -> bool:
    """Return whether a folder holds a model, or an adapter."""
    return any((directory / name).is_file() for name in MODEL_FILES)


def training_file(checkpoint: str | Path, name: str) -> Path:
    """Return where a checkpoint keeps a file of its training state: below the model's folder, whose
    weights are the model's alone, as inference servers load every `*.safetensors` in it.
    Checkpoints of earlier versions have the file beside the model.
    """
    file = Path(checkpoint) / TRAINING_DIR / name
    earlier = Path(checkpoint) / name
    return earlier if earlier.exists() and not file.exists() else file


def update_name(update: int) -> str:
    """Return the name of what belongs to an update; 0 is the initial checkpoint."""
    return f"update-{update:06d}"


def update_of(path: Path) -> int | None:
    """Return the update in the name of a checkpoint, or of a file without its suffix; None for
    another name.
    """
    number = path.name.removeprefix("update-")
    named = path.name != number and number.isascii() and number.isdigit()
    return int(number) if named else None


def remove_checkpoint(checkpoint: Path) -> None:
    """Remove a checkpoint. It loses its name first, so that one removed in part is not read."""
    partial = checkpoint.with_name(f"{checkpoint.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    os.replace(checkpoint, partial)
    shutil.rmtree(partial, ignore_errors=True)
