"""Ways to decode, by name: `sampled`, `greedy`, or `sampled@0.7` for another temperature."""

from __future__ import annotations

import math

from gym_dialogue import InputError

SAMPLED, GREEDY = "sampled", "greedy"
_AT = f"{SAMPLED}@"


def own_temperature(decoding: str) -> float | None:
    """Return the temperature that a name gives, or None for one that gives none. Raises InputError
    for a name of nothing.
    """
    if decoding in (SAMPLED, GREEDY):
        return None
    try:
        temperature = float(decoding.removeprefix(_AT)) if decoding.startswith(_AT) else math.nan
    except ValueError:
        temperature = math.nan
    if not 0 < temperature < math.inf:
        raise InputError(
            f"decoding {decoding!r}: must be {SAMPLED}, {GREEDY}, or {_AT} and a temperature above "
            "0, such as sampled@0.7"
        )
    return temperature


def is_main(decoding: str) -> bool:
    """Return whether it is one of the two that all measures are shown of, not a control."""
    return decoding in (SAMPLED, GREEDY)
