"""What a study measured: curves over compute, changes from the initial checkpoint at equal compute,
success against verifier replies, and the KL divergence from the initial checkpoint against what was
forgotten.

Every number is a mean over seeds, with the 95 % interval of `evaluation.statistics`; of one seed
alone, with that of its puzzles. Changes are taken within a seed, paired by puzzle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.metrics import Interval, Resampled, position_kinds, same_episodes, says_what_it_sees
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
_MAIN = "first_reply"


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
    """An arm over the seeds in which all of it has been measured, `rows` (seeds x checkpoints), the
    initial checkpoint first.
    """

    name: str
    title: str
    rows: list[list[Checkpoint]]

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
    def titles(self) -> dict[str, str]:
        """Return the suites' titles by name."""
        return {suite.name: suite.title or suite.name for suite in self.suites}

    @property
    def _some_records(self) -> dict[str, list[EpisodeRecord]]:
        """Return the records of one checkpoint by suite, to see which metrics there are."""
        return self.arms[0].rows[0][0].measured.records[self.decodings[0]]

    @property
    def _kinds(self) -> list[str]:
        return position_kinds(next(iter(self._some_records.values())))

    def metrics(self) -> list[str]:
        """Return what tables and curves show: metrics that all checkpoints have."""
        names = [_MAIN, *(f"{_MAIN}/{kind}" for kind in self._kinds)]
        seen = all(says_what_it_sees(episodes) for episodes in self._some_records.values())
        return names + ["recognition"] * seen

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
    rows: dict[str, list[list[Checkpoint]]] = {name: [] for name in arms}
    for place in places(config, study):
        start = Place(study, place.seed, START)
        wanted = updates.get(place.arm, [])
        own_start = place.arm != START and bool(arms[place.arm].start_options)
        first_file = (place if own_start else start).measured(0)
        files = [start.measured(0), first_file, *map(place.measured, wanted)]
        if not all(file.is_file() for file in files):
            missing.append(place.name)
        elif place.arm == START:
            path = start_of(start.directory)
            made_with = None if path is None else start_flops(path)
            init_flops += [] if made_with is None else [made_with]
        else:
            flops = flops_by_update(place.run)
            sampling = own_flops(place)
            first = Checkpoint(0, 0.0, read_measured(first_file))
            row = [
                Checkpoint(update, sampling + flops[update], read_measured(place.measured(update)))
                for update in wanted
            ]
            rows[place.arm].append([first, *row])
    measured = [Arm(n, arms[n].title or n, by_seed) for n, by_seed in rows.items() if by_seed]
    return Study(config, suites, measured, missing, init_flops)


def results(study: Study) -> dict[str, Any]:
    """Return all of it as plain data, for results.json. Compute is in FLOPs since the initial
    checkpoint, success in fractions.
    """
    config = study.config
    data: dict[str, Any] = {
        "task": config.task,
        "scale": config.scale,
        "finished": not study.missing,
        "missing": study.missing,
        "suites": {s.name: {"title": s.title or s.name, "shift": s.shift} for s in study.suites},
        "start_flops": study.init_flops,
    }
    if not study.arms:
        return data
    data["arms"] = {
        arm.name: {
            "title": arm.title,
            "seeds": len(arm.rows),
            "updates": [c.update for c in arm.rows[0]],
            "flops": arm.flops,
        }
        for arm in study.arms
    }
    data["curves"] = {arm.name: _curves(study, arm) for arm in study.arms}
    data["equal_compute"] = {"budget": study.budget, "arms": equal_compute(study)}
    data["replies"] = replies(study)
    data["divergence"] = divergences(study)
    return data


def _curves(study: Study, arm: Arm) -> dict[str, Any]:
    """Return every metric of every checkpoint, by decoding and suite."""

    def curve(decoding: str, suite: str, metric: str) -> list[dict[str, float | None]]:
        points = range(len(arm.flops))
        return [arm.value(i, decoding, suite, metric).to_json() for i in points]

    return {
        decoding: {
            suite: {metric: curve(decoding, suite, metric) for metric in study.metrics()}
            for suite in study.titles
        }
        for decoding in study.decodings
    }


def equal_compute(study: Study) -> dict[str, Any]:
    """Return for each arm, at the compute that all have reached: the metrics of the initial
    checkpoint, of the arm's, and the change; and whether that is its end, so that `end_metrics` are
    among them.
    """
    by_arm = {}
    for arm in study.arms:
        index = arm.within(study.budget)
        is_end = index == len(arm.flops) - 1
        metrics = study.metrics() + study.end_metrics() * is_end
        by_arm[arm.name] = {
            "update": arm.rows[0][index].update,
            "flops": arm.flops[index],
            "is_end": is_end,
        } | {
            decoding: {
                suite: {m: _against_start(arm, index, decoding, suite, m) for m in metrics}
                for suite in study.titles
            }
            for decoding in study.decodings
        }
    return by_arm


def _against_start(
    arm: Arm, index: int, decoding: str, suite: str, metric: str
) -> dict[str, dict[str, float | None]]:
    intervals = arm.against_start(index, decoding, suite, metric)
    return {name: interval.to_json() for name, interval in intervals.items()}


def replies(study: Study) -> dict[str, Any]:
    """Return success within 1, 2, ... replies of the initial and the last checkpoints, by suite."""
    by_label: dict[str, Any] = {}
    for arm in study.arms:
        for label, index in ((START, 0), (arm.name, len(arm.flops) - 1)):
            if label in by_label:
                continue
            allowed = min(row[index].measured.verify_iter for row in arm.rows)
            by_label[label] = {
                decoding: {
                    suite: [
                        arm.value(index, decoding, suite, f"within_{k + 1}").to_json()
                        for k in range(allowed)
                    ]
                    for suite in study.titles
                }
                for decoding in study.decodings
            }
    return by_label


def divergences(study: Study) -> list[dict[str, Any]]:
    """Return for each checkpoint of each seed the KL divergence from the initial checkpoint in nats
    a reply, on the first suite, and the change of success in the main decoding by suite
    (arXiv 2509.04259).
    """
    decoding = study.decodings[0]
    points = []
    for arm in study.arms:
        for seed, row in enumerate(arm.rows):
            for checkpoint in row[1:]:
                if checkpoint.measured.divergence is None:
                    continue
                changes = {}
                for suite in study.titles:
                    now, before = checkpoint.paired(row[0], decoding, suite, _MAIN)
                    changes[suite] = round(now.value - before.value, 5)
                points.append(
                    {"arm": arm.name, "row": seed, "update": checkpoint.update}
                    | checkpoint.measured.divergence
                    | {"changes": changes}
                )
    return points


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
