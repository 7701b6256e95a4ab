"""What a study measured: its arms, their checkpoints and their initial checkpoints, by seed.

Every number is a mean over seeds, with the 95 % interval of `evaluation.statistics`; of one seed
alone, with that of its puzzles. Changes are taken within a seed, paired by puzzle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from evaluation.metrics import (
    FIRST_REPLY,
    Interval,
    Resampled,
    check_names,
    pass_names,
    position_kinds,
    same_episodes,
    says_what_it_sees,
)
from evaluation.records import EpisodeRecord
from evaluation.seeds import average
from evaluation.study.config import StudyConfig
from evaluation.study.layout import (
    START,
    Measured,
    Place,
    flops_by_update,
    read_measured,
    start_flops,
)
from evaluation.study.run import places, start_of
from evaluation.suites import SuiteConfig, load_task
from gym_dialogue import InputError
from gym_dialogue.checks import read_json

_SLACK = 1.05  # how far above the shared budget a checkpoint may lie and still count as equal


@dataclass
class Checkpoint:
    """A measured checkpoint under one seed. `flops` is compute since the initial checkpoint."""

    update: int
    flops: float
    measured: Measured
    cache: dict[tuple[str, str, str, int], Resampled] = field(default_factory=dict, repr=False)

    def resampled(
        self, decoding: str, suite: str, metric: str, episodes: int | None = None
    ) -> Resampled:
        """Resample a metric over the first so many episodes, or over all."""
        records = self.measured.records[decoding][suite][:episodes]
        key = decoding, suite, metric, len(records)
        if key not in self.cache:
            self.cache[key] = Resampled(records, metric)
        return self.cache[key]

    def count(self, decoding: str, suite: str) -> int:
        """Return how many episodes were played."""
        return len(self.measured.records[decoding][suite])

    def paired(
        self, start: Checkpoint, decoding: str, suite: str, metric: str
    ) -> tuple[Resampled, Resampled]:
        """Resample a metric of this checkpoint and of the initial one, over the episodes that both
        played: the first and the last of a run may have played more than those between.
        """
        after, before = (c.measured.records[decoding][suite] for c in (self, start))
        shared = min(len(after), len(before))
        if not same_episodes(after[:shared], before[:shared]):
            raise ValueError(
                f"update {self.update}: {suite} is not of the initial checkpoint's episodes"
            )
        key = decoding, suite, metric, shared
        return self.resampled(*key), start.resampled(*key)


@dataclass
class Arm:
    """An arm over the `seeds` in which all of it has been measured, `rows` (seeds x checkpoints),
    the initial checkpoint first.
    """

    name: str
    title: str
    rows: list[list[Checkpoint]]
    seeds: list[int]

    @cached_property
    def flops(self) -> list[float]:
        """Return the mean compute of each checkpoint, in FLOPs."""
        return np.mean([[c.flops for c in row] for row in self.rows], axis=0).tolist()

    def value(self, index: int, decoding: str, suite: str, metric: str) -> Interval:
        """Return a metric of the checkpoint at an index of the rows."""
        by_seed = [row[index].resampled(decoding, suite, metric) for row in self.rows]
        return average(by_seed)

    def against_start(
        self, index: int, decoding: str, suite: str, metric: str
    ) -> dict[str, Interval]:
        """Return the metric of the initial checkpoint (`start`), of this one (`value`), and the
        `change` from one to the other, all over the episodes that both played.
        """
        pairs = [row[index].paired(row[0], decoding, suite, metric) for row in self.rows]
        return {
            "start": average([before for _, before in pairs]),
            "value": average([after for after, _ in pairs]),
            "change": average([after - before for after, before in pairs]),
        }

    def within(self, budget: float) -> int:
        """Return the index of the last checkpoint at that compute."""
        return max(i for i, flops in enumerate(self.flops) if flops <= _SLACK * budget)


@dataclass
class Study:
    """Everything that has been measured of a study."""

    config: StudyConfig
    suites: Sequence[SuiteConfig]
    arms: list[Arm]
    starts: list[Checkpoint]
    """The initial checkpoints that are measured, one for each seed."""
    missing: list[str]
    """Names of the parts that are not done."""
    init_flops: list[float]
    """Compute of the initial checkpoints that say so, by seed."""

    @property
    def budget(self) -> float:
        """Return the compute that all arms have reached."""
        return min(arm.flops[-1] for arm in self.arms)

    @property
    def decodings(self) -> list[str]:
        return list(self.config.eval.decoding)

    @property
    def start_decodings(self) -> list[str]:
        """Return the decodings in which all initial checkpoints were evaluated."""
        names = dict.fromkeys((*self.decodings, *self.config.start_decoding))
        return [n for n in names if all(n in c.measured.records for c in self.starts)]

    @property
    def titles(self) -> dict[str, str]:
        """Return the suites' titles by name."""
        return {suite.name: suite.title or suite.name for suite in self.suites}

    @property
    def primary(self) -> str:
        """Return the suite of the claim."""
        if self.config.primary:
            return self.config.primary
        rules = [suite.name for suite in self.suites if suite.shift == "rule"]
        return [*rules, self.suites[-1].name][0]

    def _some_records(self, decoding: str) -> dict[str, list[EpisodeRecord]]:
        """Return the records of one checkpoint by suite, to see which metrics there are."""
        return self.arms[0].rows[0][0].measured.records[decoding]

    @property
    def _kinds(self) -> list[str]:
        return position_kinds(next(iter(self._some_records(self.decodings[0]).values())))

    def metrics(self, decoding: str) -> list[str]:
        """Return what tables and curves show: metrics that all checkpoints have."""
        by_suite = self._some_records(decoding).values()
        some = next(iter(by_suite))
        names = [FIRST_REPLY, *pass_names(some), *(f"{FIRST_REPLY}/{kind}" for kind in self._kinds)]
        names += [f"check/{name}" for name in check_names(some)]
        return names + ["recognition"] * all(map(says_what_it_sees, by_suite))

    def end_metrics(self) -> list[str]:
        """Return what can be said where all replies that an episode allows were played, as of
        initial and last checkpoints: the success rate of the paper, with sequential revisions.
        """
        return ["until_failure"] * bool(self._kinds) + ["episode_success"]


def read_study(config: StudyConfig, study: Path) -> Study:
    """Read what has been measured. An arm counts under the seeds for which it is finished."""
    suites = load_task(config.suites or config.task).suites
    arms = {arm.name: arm for arm in config.chosen()}
    updates = {name: arm.updates() for name, arm in arms.items()}
    missing: list[str] = []
    init_flops: list[float] = []
    rows: dict[str, dict[int, list[Checkpoint]]] = {name: {} for name in arms}
    starts: dict[int, Checkpoint] = {}
    for place in places(config, study):
        start = Place(study, place.seed, START)
        wanted = updates.get(place.arm, [])
        own_start = place.arm != START and bool(arms[place.arm].start_options)
        first_file = (place if own_start else start).measured(0)
        files = [start.measured(0), first_file, *map(place.measured, wanted)]
        if not all(file.is_file() for file in files):
            missing.append(place.name)
        elif place.arm == START:
            starts[place.seed] = Checkpoint(0, 0.0, read_measured(start.measured(0)))
            path = start_of(start.directory)
            made_with = None if path is None else start_flops(path)
            init_flops += [] if made_with is None else [made_with]
        else:
            flops = flops_by_update(place.run)
            sampling = own_flops(place)
            first = starts[place.seed]
            if own_start:
                first = Checkpoint(0, 0.0, read_measured(first_file))
            row = [
                Checkpoint(update, sampling + flops[update], read_measured(place.measured(update)))
                for update in wanted
            ]
            rows[place.arm][place.seed] = [first, *row]
    measured = [
        Arm(name, arms[name].title or name, list(by_seed.values()), list(by_seed))
        for name, by_seed in rows.items()
        if by_seed
    ]
    return Study(config, suites, measured, list(starts.values()), missing, init_flops)


def own_flops(place: Place) -> float:
    """Return the compute of sampling the replies that an arm learned from, 2 N D, if there are any.
    Raises InputError for a damaged note.
    """
    note = place.directory / "own" / "own.json"
    if not note.is_file():
        return 0.0
    account = read_json(note, str(note))
    if not isinstance(account, dict) or not isinstance(account.get("flops"), int | float):
        raise InputError(f"{note}: gives no flops; remove {note.parent}, and run the study again")
    return float(account["flops"])
