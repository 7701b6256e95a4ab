"""Success rates with intervals that respect repeated puzzles, alone and paired.

A position is what one dialogue is about: the hand, in GeneralPoints, where an episode has one; a
place on the route, in navigation, where it has many.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evaluation.records import CUT, EpisodeRecord
from evaluation.statistics import LEVEL, Estimate
from gym_dialogue.messages import BEYOND_CONTEXT

NUM_RESAMPLES = 2000

FIRST_REPLY = "first_reply"
"""The main metric: the share of positions that are right at the first reply."""

PASS_AT = "pass_at_"


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its 95 % interval, all as fractions."""

    value: float
    low: float
    high: float

    @property
    def direction(self) -> int:
        """Return 1 or -1 where all of the interval lies above or below zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    def to_json(self) -> dict[str, float | None]:
        """Return the three numbers, rounded to 5 places; None where nothing was measured."""
        return {
            name: None if np.isnan(value) else round(float(value), 5)
            for name, value in vars(self).items()
        }

    @classmethod
    def from_json(cls, numbers: Mapping[str, Any]) -> Interval:
        """Read what `to_json` returned, among other keys; nan where nothing was measured."""
        ends = (numbers[name] for name in ("value", "low", "high"))
        return cls(*(np.nan if number is None else number for number in ends))


def _counts(record: EpisodeRecord, metric: str) -> tuple[float, float]:
    """Return (numerator, denominator) that one episode adds to a metric."""
    if metric == "episode_success":
        return float(record.is_success), 1.0
    metric, _, kind = metric.partition("/")
    positions = record.positions("" if metric == "check" else kind)
    if metric == "recognition":
        answers = [turns[0].recognized for turns in positions]
        known = [recognized for recognized in answers if recognized is not None]
        return float(sum(known)), float(len(known))
    if metric == "check":
        checked = [turns[0].checks.get(kind, False) for turns in positions]
        return float(sum(checked)), float(len(checked))
    if metric == "until_failure":
        won = [any(turn.is_right for turn in turns) for turns in positions]
        reached = won[: won.index(False) + 1] if False in won else won
        return float(sum(reached)), float(len(reached))
    limit = 1 if metric == "first_reply" else int(metric.removeprefix("within_"))
    won = [any(turn.is_right for turn in turns[:limit]) for turns in positions]
    return float(sum(won)), float(len(won))


def _sums(records: Sequence[EpisodeRecord], metric: str) -> Iterator[tuple[str, float, float]]:
    """Yield (puzzle, numerator, denominator) of each episode; of pass@k, of each deal."""
    if not metric.startswith(PASS_AT):
        yield from ((record.puzzle, *_counts(record, metric)) for record in records)
        return
    k = int(metric.removeprefix(PASS_AT))
    for tries in _by_deal(records):
        right = sum(_counts(record, "first_reply") == (1.0, 1.0) for record in tries)
        missed = math.comb(len(tries) - right, k) / math.comb(len(tries), k)
        yield tries[0].puzzle, 1 - missed, 1.0


def _by_deal(records: Sequence[EpisodeRecord]) -> list[list[EpisodeRecord]]:
    """Return episodes that are tries at the same deal together."""
    deals: dict[tuple[int, str], list[EpisodeRecord]] = {}
    for record in records:
        deals.setdefault((record.env_seed, record.puzzle), []).append(record)
    return list(deals.values())


def tries_per_deal(records: Sequence[EpisodeRecord]) -> int:
    """Return how often every deal was played, the least often where that differs."""
    return min(map(len, _by_deal(records)), default=0)


def metric_names(records: Sequence[EpisodeRecord], verify_iter: int) -> list[str]:
    """Return the names of what can be measured of these records.

    `first_reply`: share of positions right at the first reply; `within_k`: right within k replies;
    `episode_success`: share of episodes that ended in success; `recognition`: share of positions
    where the first reply says rightly what there is to see, right answer or not. Where an episode
    has many positions: `first_reply/KIND`, of positions of that kind alone; and `until_failure`,
    right within the replies allowed, counting no position after the first failed one: the per-step
    accuracy of an evaluation that ends a route there (arXiv 2501.17161). `check/NAME`: share of
    first replies in which what the environment names so is right. `pass_at_k`, where each deal was
    played k times: share of deals of which at least one of k first replies is right, without bias
    (arXiv 2107.03374, equation 1).
    """
    names = ["first_reply", *(f"within_{k}" for k in range(1, verify_iter + 1)), "episode_success"]
    kinds = position_kinds(records)
    names += [f"first_reply/{kind}" for kind in kinds] + ["until_failure"] * bool(kinds)
    names += [f"check/{name}" for name in check_names(records)]
    names += pass_names(records)
    return names + ["recognition"] * says_what_it_sees(records)


def pass_names(records: Sequence[EpisodeRecord]) -> list[str]:
    """Return the metric pass@k of k tries a deal, if each was tried more than once."""
    tries = tries_per_deal(records)
    return [f"{PASS_AT}{tries}"] if tries > 1 and not position_kinds(records) else []


def check_names(records: Sequence[EpisodeRecord]) -> list[str]:
    """Return the names of what else is right or not in replies, in the order in which they come."""
    return list(dict.fromkeys(name for r in records for t in r.turns for name in t.checks))


def position_kinds(records: Sequence[EpisodeRecord]) -> list[str]:
    """Return the kinds of positions in records, in the order in which they come up."""
    return list(dict.fromkeys(t.kind for r in records for t in r.turns if t.kind))


def says_what_it_sees(records: Sequence[EpisodeRecord]) -> bool:
    """Return whether the environment shows something, so that `recognition` can be measured."""
    return any(turn.recognized is not None for r in records for turn in r.turns)


@functools.lru_cache(maxsize=16)
def _draws(seed: int, puzzles: int) -> np.ndarray:
    """Draw how often each puzzle is in each resample (NUM_RESAMPLES, puzzles)."""
    rng = np.random.default_rng([seed, puzzles])
    counts = rng.multinomial(puzzles, np.full(puzzles, 1 / puzzles), NUM_RESAMPLES)
    return counts.astype(float)


class Resampled:
    """Bootstrap over puzzles for one list of records: all episodes on a puzzle are drawn together,
    for they are not independent. The same `seed` and puzzles give the same draws, which is what
    makes a difference of two checkpoints paired.
    """

    def __init__(self, records: Sequence[EpisodeRecord], metric: str, seed: int = 0):
        puzzles = {name: i for i, name in enumerate(dict.fromkeys(r.puzzle for r in records))}
        sums = np.zeros((2, len(puzzles)))
        for puzzle, numerator, denominator in _sums(records, metric):
            sums[:, puzzles[puzzle]] += numerator, denominator
        draws = _draws(seed, len(puzzles))
        by_puzzle = zip(puzzles, sums.T.tolist(), strict=True)
        self.estimate = Estimate.of_counts({name: (n, d) for name, (n, d) in by_puzzle})
        with np.errstate(invalid="ignore"):  # nan where there is nothing of the kind to measure
            self.samples = (draws @ sums[0]) / (draws @ sums[1])

    @property
    def value(self) -> float:
        """Return the metric itself; nan where there is nothing of the kind to measure."""
        return self.estimate.value

    def __sub__(self, other: Resampled) -> Resampled:
        """Return this metric minus another on the same episodes, paired by puzzle."""
        difference = object.__new__(Resampled)
        difference.samples = self.samples - other.samples
        difference.estimate = self.estimate - other.estimate
        return difference

    @classmethod
    def weighted(cls, parts: Sequence[tuple[float, Resampled]]) -> Resampled:
        """Return the sum of metrics times their weights, over the same puzzles."""
        whole = object.__new__(cls)
        whole.samples = sum(weight * one.samples for weight, one in parts)
        whole.estimate = Estimate.weighted([(weight, one.estimate) for weight, one in parts])
        return whole

    def interval(self) -> Interval:
        """Return the percentile interval; Wilson's where every puzzle came out the same."""
        percentiles = percentile_interval(self.value, self.samples)
        if percentiles.low < percentiles.high or np.isnan(self.value):
            return percentiles
        estimate = self.estimate
        low = max(estimate.value - estimate.floor, estimate.low)
        high = min(estimate.value + estimate.floor, estimate.high)
        return Interval(estimate.value, low, high)


def percentile_interval(value: float, samples: np.ndarray) -> Interval:
    """Return an estimate with the percentile interval of its bootstrap samples."""
    tail = 100 * (1 - LEVEL) / 2
    if np.isnan(value):
        return Interval(value, value, value)
    low, high = np.nanpercentile(samples, [tail, 100 - tail])
    return Interval(float(value), float(low), float(high))


@dataclass(frozen=True)
class ReplyCounts:
    """How many replies there are, and how many of them have no answer that was found (`unread`),
    ended at the limit of tokens (`cut`), have no text (`empty`), or were never given, for the
    dialogue is beyond the model's context (`beyond_context`; they are empty as well).
    """

    replies: int
    unread: int
    cut: int
    empty: int
    beyond_context: int

    def __str__(self) -> str:
        return f"{self.unread} / {self.cut} / {self.empty} of {self.replies}"


def count_replies(records: Sequence[EpisodeRecord]) -> ReplyCounts:
    """Count over the turns of records. What older records do not hold counts for nothing."""
    turns = [turn for record in records for turn in record.turns]
    finishes = [turn.finish.lower() for turn in turns]
    return ReplyCounts(
        replies=len(turns),
        unread=sum(turn.is_read is False for turn in turns),
        cut=sum(finish in CUT for finish in finishes),
        empty=sum(not turn.reply.strip() for turn in turns),
        beyond_context=sum(finish == BEYOND_CONTEXT for finish in finishes),
    )


def summarize(records: Sequence[EpisodeRecord], verify_iter: int) -> dict[str, Any]:
    """Return all metrics with their intervals, the counts of primary outcomes and of replies that
    hold no answer, and the sizes.
    """
    outcomes: dict[str, int] = {}
    for record in records:
        for turn in record.turns:
            outcomes[turn.outcome] = outcomes.get(turn.outcome, 0) + 1
    return {
        "episodes": len(records),
        "puzzles": len({record.puzzle for record in records}),
        "mean_return": round(float(np.mean([record.total_reward for record in records])), 5),
        "metrics": {
            name: Resampled(records, name).interval().to_json()
            for name in metric_names(records, verify_iter)
        },
        "outcomes": dict(sorted(outcomes.items())),
        "replies": asdict(count_replies(records)),
    }


def same_episodes(*played: Sequence[EpisodeRecord]) -> bool:
    """Return whether lists of records are of the same seeded episodes, one by one."""
    return len({tuple(record.env_seed for record in records) for records in played}) == 1


def paired_difference(
    after: Sequence[EpisodeRecord], before: Sequence[EpisodeRecord], metric: str
) -> Interval:
    """Return `after` minus `before` on the same seeded episodes.

    Raises ValueError if the episodes are not the same ones.
    """
    if not same_episodes(after, before):
        raise ValueError("paired_difference: the two lists are not of the same episodes")
    return (Resampled(after, metric) - Resampled(before, metric)).interval()
