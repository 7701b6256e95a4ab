"""Intervals of success rates and of differences over seeds, measured on the same puzzles.

Two things vary: the seed of a run, and the puzzle. A seed's value is off the true mean by an effect
of the seed, by the mean effect of the puzzles, which all seeds share, and by the mean of what is
left (how this seed does on this puzzle). A t interval on the seeds' values alone knows nothing of
the second. A bootstrap that draws puzzles anew for every seed counts it as if it were independent,
and seeds that are drawn with replacement vary less than seeds do.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

LEVEL = 0.95
_MOST_EXACT = 16  # seeds: 2**16 sign flips are counted one by one


@dataclass(frozen=True)
class Estimate:
    """A ratio measured under one seed, or the difference of two.

    `influence` is what each puzzle adds to the error of the value, in a linear approximation; it
    sums to zero. `floor` is how far off a value at 0 or 1 may be, where nothing seems to vary.
    `low` and `high` are the ends of what is possible.
    """

    value: float
    influence: Mapping[str, float]
    floor: float = 0.0
    low: float = 0.0
    high: float = 1.0

    @classmethod
    def of_counts(cls, counts: Mapping[str, tuple[float, float]]) -> Estimate:
        """Return the ratio of sums of (numerator, denominator) by puzzle; nan where no denominator
        is above zero.
        """
        total = sum(denominator for _, denominator in counts.values())
        if not total:
            return cls(np.nan, {})
        value = sum(numerator for numerator, _ in counts.values()) / total
        floor = wilson_length(len(counts)) if value in (0.0, 1.0) else 0.0
        influence = {name: (n - value * d) / total for name, (n, d) in counts.items()}
        return cls(value, influence, floor)

    def __sub__(self, other: Estimate) -> Estimate:
        """Return the difference, paired by puzzle."""
        names = dict.fromkeys((*self.influence, *other.influence))
        influence = {
            name: self.influence.get(name, 0.0) - other.influence.get(name, 0.0) for name in names
        }
        floor = float(np.hypot(self.floor, other.floor))  # Newcombe 1998, method 10
        return Estimate(self.value - other.value, influence, floor, -1.0, 1.0)

    @classmethod
    def weighted(cls, parts: Sequence[tuple[float, Estimate]]) -> Estimate:
        """Return the sum of estimates times their weights, paired by puzzle."""
        names = dict.fromkeys(itertools.chain.from_iterable(e.influence for _, e in parts))
        return cls(
            sum(weight * one.value for weight, one in parts),
            {n: sum(w * e.influence.get(n, 0.0) for w, e in parts) for n in names},
            float(np.hypot.reduce([weight * one.floor for weight, one in parts])),
            min(one.low for _, one in parts),
            max(one.high for _, one in parts),
        )


@dataclass(frozen=True)
class OverSeeds:
    """The mean over seeds with its 95 % interval (nan of one seed alone), the value of each seed,
    and, for differences, two p values that the mean is zero: `p` is 1 less the confidence level at
    which the interval ends at zero, `p_sign_flip` that of a sign-flip test.
    """

    value: float
    low: float
    high: float
    per_seed: tuple[float, ...]
    p: float
    p_sign_flip: float


def over_seeds(estimates: Sequence[Estimate]) -> OverSeeds:
    """Average one estimate for each seed, over the same puzzles.

    With S seeds and P puzzles, the variance of the mean has a part of seeds (that of the seeds'
    values over S, S - 1 degrees of freedom) and a part of puzzles (that of the seeds' mean
    influences, less what the first part has counted, P - 1 degrees). The half length is the mean
    of two. Satterthwaite's (1946) is a t quantile at the degrees of freedom of the sum: a little
    short where few seeds dominate. Graybill and Wang's (1980) gives each part its own quantile: a
    little long where both matter. Together they cover 94 to 97 % for 3 to 8 seeds, whichever part
    is the larger (evaluation/tests/test_statistics.py).
    """
    values = tuple(estimate.value for estimate in estimates)
    mean = float(np.mean(values))
    if len(values) < 2 or np.isnan(mean):
        return OverSeeds(mean, np.nan, np.nan, values, np.nan, np.nan)
    measured = np.array(values), _aligned([e.influence for e in estimates])
    half = _half_length(*measured)
    p = _p_of_zero(mean, *measured) if half else np.nan
    first = estimates[0]
    half = half or float(np.mean([estimate.floor for estimate in estimates]))
    low, high = max(mean - half, first.low), min(mean + half, first.high)
    return OverSeeds(mean, low, high, values, p, sign_flip(values))


def _aligned(influences: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Influences as an array (seeds, puzzles); 0 for a puzzle that a seed was not measured on."""
    names = list(dict.fromkeys(itertools.chain.from_iterable(influences)))
    return np.array([[influence.get(name, 0.0) for name in names] for influence in influences])


def _p_of_zero(mean: float, values: np.ndarray, influences: np.ndarray) -> float:
    """Return 1 less the confidence level at which the interval ends at zero, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(40):
        level = (low + high) / 2
        if _half_length(values, influences, level) < abs(mean):
            low = level
        else:
            high = level
    return 1 - (low + high) / 2


def _half_length(values: np.ndarray, influences: np.ndarray, level: float = LEVEL) -> float:
    """Half of the interval's length, from values (S,) and influences (S, P)."""
    seeds, puzzles = influences.shape
    of_seeds = values.var(ddof=1) / seeds
    correction = puzzles / max(puzzles - 1, 1)
    shared = influences.mean(axis=0)
    # The mean influence of a puzzle holds its effect, and the mean of what seeds do on it alone:
    # the variance of the seeds' values has counted that already.
    alone = ((influences - shared) ** 2).sum() / (seeds * (seeds - 1))
    of_puzzles = max(correction * ((shared**2).sum() - alone), 0.0)
    total = of_seeds + of_puzzles
    if not total:
        return 0.0
    few, many = seeds - 1, max(puzzles - 1, 1)
    freedom = total**2 / (of_seeds**2 / few + of_puzzles**2 / many)
    tail = (1 + level) / 2
    satterthwaite = student.ppf(tail, freedom) * np.sqrt(total)
    graybill_wang = np.sqrt(
        student.ppf(tail, few) ** 2 * of_seeds + student.ppf(tail, many) ** 2 * of_puzzles
    )
    return float(satterthwaite + graybill_wang) / 2


def sign_flip(differences: Sequence[float]) -> float:
    """Return the two-sided p of the mean difference if each sign were as likely as its opposite:
    the share of all 2**S choices of signs with a mean at least as far from zero. With S seeds it is
    at least 2 / 2**S, so that five seeds cannot reach 0.05. nan beyond 16 differences.
    """
    array = np.asarray(differences, dtype=float)
    if len(array) > _MOST_EXACT or np.isnan(array).any():
        return np.nan
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(array))))
    means = np.abs(signs @ array)
    return float((means >= abs(array.sum()) - 1e-12).mean())


def wilson_length(count: int) -> float:
    """Return the length of Wilson's 95 % interval (1927) at 0 or all of `count` successes."""
    z = student.ppf((1 + LEVEL) / 2, np.inf)
    return float(z**2 / (count + z**2))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust p values for being several, by Holm's step-down method (1979)."""
    ordered = sorted(p_values, key=lambda name: p_values[name])
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
