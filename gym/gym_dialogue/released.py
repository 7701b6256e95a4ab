"""Where the released data lies: as `scripts/download.sh data` leaves it and `paper` names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gym_dialogue.errors import InputError

DATA_DIR = Path("data")
"""Relative to the project's root, where every launcher runs."""
RELEASED_DIR = DATA_DIR / "SFTvsRL_Data"
"""The released data set."""


def require_released(name: str, value: Any) -> None:
    """Raises InputError, with the command that fetches it, if the setting `name` names a part of
    the released data that is not there.
    """
    if isinstance(value, str) and is_released(value) and not Path(value).exists():
        raise InputError(
            f"{name}={value}: is not there; fetch it with: bash scripts/download.sh data"
        )


def is_released(path: str | Path) -> bool:
    """Whether a path is in the place of the released data."""
    return RELEASED_DIR in Path(path).parents
