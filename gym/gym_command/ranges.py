"""Ranges of configuration values, declared where the field is: `lr: Positive = 1e-6`.

A number without a range must be finite, and an integer must fit in 32 bits: anything larger is a
mistake, which would otherwise show up as a lack of memory, if at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, get_args, get_type_hints

from gym_dialogue.errors import InputError


@dataclass(frozen=True)
class Range:
    """An interval from `low` to `high`; open ends are excluded."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        """Return whether a value lies within. NaN does not."""
        above = self.low < value if self.open_low else self.low <= value
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        ends = []
        if self.low > -math.inf:
            ends.append(f"{'above' if self.open_low else 'at least'} {self.low:g}")
        if self.high < math.inf:
            ends.append(f"{'below' if self.open_high else 'at most'} {self.high:.10g}")
        return " and ".join(ends)


_INT = Range(-(2**31), 2**31 - 1)

Positive = Annotated[float, Range(0, open_low=True)]
NotNegative = Annotated[float, Range(0)]
Temperature = Annotated[float, Range(1e-4, 1e4)]
"""Of sampling. Smaller values lead to infinite logits in float32."""
Share = Annotated[float, Range(0, 1)]
ShareBelowOne = Annotated[float, Range(0, 1, open_high=True)]
Count = Annotated[int, Range(1, 2**31 - 1)]
Natural = Annotated[int, Range(0, 2**31 - 1)]
Length = Annotated[int, Range(1, 2**20)]
"""Of what is in memory at a time: tokens of a reply, episodes played together."""
Seed = Annotated[int, Range(0, 2**32 - 1)]


def check_ranges(config: Any, prefix: str = "") -> None:
    """Raise InputError for the first value of a configuration dataclass that is out of its range.

    None is always in range. In lists and mappings the range applies to each number.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        declared = _declared(hints[field.name])
        _check(f"{prefix}{field.name}", getattr(config, field.name), declared)


def _declared(hint: Any) -> list[Range]:
    """Return the ranges in a type: `Positive`, `Positive | None`, `dict[str, Positive]`."""
    own = [r for r in getattr(hint, "__metadata__", ()) if isinstance(r, Range)]
    return own + [r for part in get_args(hint) for r in _declared(part)]


def _check(name: str, value: Any, declared: list[Range]) -> None:
    if is_dataclass(value):
        check_ranges(value, f"{name}.")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check(f"{name}.{key}", item, declared)
    elif isinstance(value, list | tuple):
        for item in value:
            _check(name, item, declared)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name}={value}: must be a finite number")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        for allowed in declared or [_INT if isinstance(value, int) else Range()]:
            if not allowed.holds(value):
                raise InputError(f"{name}={value}: must be {allowed}")
