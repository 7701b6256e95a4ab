"""Says in one line which version of another framework an adapter was tested with."""

from __future__ import annotations

import importlib.metadata
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gym_dialogue.errors import InputError, one_line

_REQUIREMENTS = Path(__file__).parent / "requirements"


@contextmanager
def library(adapter: str) -> Iterator[None]:
    """Import an adapter's library inside of this; `adapter` names its requirements file, whose
    first line pins it. Raises InputError where the library is missing or lacks what is imported;
    warns where it is newer than what was tested.
    """
    pinned = (_REQUIREMENTS / f"{adapter}.txt").read_text().split()[0]
    name, _, tested = pinned.partition("==")
    remedy = f"tested with {tested}: pip install {pinned}"
    try:
        there = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"{name}: is not installed; {remedy}") from None
    try:
        yield
    except ImportError as error:
        raise InputError(f"{name} {there}: {one_line(error)}; {remedy}") from error
    if _numbers(there) > _numbers(tested):
        warnings.warn(f"{name} {there}: newer than what was {remedy}", stacklevel=3)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
