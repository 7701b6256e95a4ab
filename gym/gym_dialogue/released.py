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
    if not isinstance(value, str) or Path(value).exists():
        return
    if RELEASED_DIR.absolute() in Path(value).absolute().parents:
        raise InputError(
            f"{name}={value}: is not there; fetch it with: bash scripts/download.sh data"
        )


def is_released(path: str | Path) -> bool:
    """Return whether a path is in a copy of the released data, wherever that is: it is known by its
    folder's name, also in the hub's cache (datasets--OWNER--NAME).
    """
    names = (part.rpartition("--")[2].lower() for part in Path(path).parts[:-1])
    return RELEASED_DIR.name.lower() in names
