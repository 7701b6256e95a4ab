"""Rules of what a card counts as. A rule is data: new ones need no code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gym_dialogue.checks import is_integer
from gym_dialogue.errors import InputError

RANKS = ("A", "2", "3", "4", "5", "6", "7", "8", "9", "10", "J", "Q", "K")
FACES = ("J", "Q", "K")
MAX_VALUE = 99

NAMED_RULES = {
    "10": (10, 10, 10),
    "rank": (11, 12, 13),
    "5": (5, 5, 5),
    "7": (7, 7, 7),
    "12": (12, 12, 12),
}


@dataclass(frozen=True)
class FaceRule:
    """The values of J, Q and K; an ace is 1 and the other cards are their number.

    `FaceRule.of` takes a name ("10", "rank", "5", "7", "12"), one integer for all three, or a
    mapping such as {"J": 11, "Q": 12, "K": 13}.
    """

    jack: int
    queen: int
    king: int

    @classmethod
    def of(cls, spec: FaceRule | str | int | Mapping[str, int]) -> FaceRule:
        """Return the rule that a specification names. Raises InputError for an unknown name, a
        missing face, or a value outside 1..99.
        """
        if isinstance(spec, FaceRule):
            return spec
        if isinstance(spec, Mapping):
            if set(spec) != set(FACES):
                raise InputError(
                    f"face rule {dict(spec)}: needs exactly the keys J, Q and K, each an integer"
                )
            values: tuple[Any, ...] = tuple(spec[face] for face in FACES)
        elif is_integer(spec):
            values = (spec,) * 3
        elif spec in NAMED_RULES:
            values = NAMED_RULES[spec]
        else:
            raise InputError(
                f"face rule {spec!r}: must be one of {', '.join(NAMED_RULES)}, an integer, "
                "or a mapping of J, Q and K to integers"
            )
        for value in values:
            if not is_integer(value) or not 1 <= value <= MAX_VALUE:
                raise InputError(
                    f"face rule {spec!r}: the value {value!r} must be an integer from 1 to "
                    f"{MAX_VALUE}"
                )
        return cls(*values)

    def value(self, rank: str) -> int:
        """Return what one card counts as. Raises KeyError for anything but a rank."""
        return self._values()[rank]

    def numbers(self, ranks: Sequence[str]) -> list[int]:
        """Return the values of a hand, in order."""
        values = self._values()
        return [values[rank] for rank in ranks]

    def _values(self) -> dict[str, int]:
        faces = dict(zip(FACES, (self.jack, self.queen, self.king), strict=True))
        return _NUMBER_CARDS | faces


def random_rule(rng: np.random.Generator, largest: int = 13) -> FaceRule:
    """Draw what J, Q and K count as: numbers from 1 to `largest`, independent of one another. Never
    a named rule, so that the unseen rules of an evaluation stay unseen by a policy that met these.
    """
    named = set(NAMED_RULES.values())
    while True:
        values = tuple(int(value) for value in rng.integers(1, largest + 1, size=3))
        if values not in named:
            return FaceRule(*values)


_NUMBER_CARDS = {rank: i for i, rank in enumerate(RANKS, start=1) if rank not in FACES}
