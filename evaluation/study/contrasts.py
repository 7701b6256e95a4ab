"""One arm less another: at equal compute, at equal success in distribution, at equal KL divergence
from the initial checkpoint; and an arm less the initial checkpoint at its best temperature.

Where two arms are compared at an equal level, it is under each seed the highest that both reached.
Each arm's trajectory, from the initial checkpoint on, is taken where it first gets there, linear
between two checkpoints. Differences are within a seed, paired by puzzle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.metrics import FIRST_REPLY, Resampled
from evaluation.seeds import average
from evaluation.statistics import over_seeds
from evaluation.study.analysis import Arm, Checkpoint, Study
from evaluation.study.layout import START

Blend = list[tuple[float, Checkpoint]]
"""A point of a trajectory: checkpoints with their weights, which add to 1."""

BOTH = "both"
"""The mean over decodings, beside the decodings."""


def whole(decodings: Sequence[str]) -> str:
    """Return the key of a contrast that stands for all decodings."""
    return BOTH if len(decodings) > 1 else decodings[0]


def title_of(decoding: str) -> str:
    """Return what a decoding of a contrast is called."""
    return "mean of decodings" if decoding == BOTH else decoding


MATCHES = {
    "compute": "equal compute",
    "id": "equal success in distribution",
    "kl": "equal KL divergence from the initial checkpoint",
}
"""At what two arms are compared, and how it is called."""


def reach(levels: Sequence[float], row: Sequence[Checkpoint], level: float) -> Blend:
    """Return the point at which a trajectory first reaches a level, or its highest where it never
    does. `levels` are those of its checkpoints.
    """
    for index, reached in enumerate(levels):
        if reached >= level:
            if index == 0 or reached == level:
                return [(1.0, row[index])]
            share = (level - levels[index - 1]) / (reached - levels[index - 1])
            return [(1 - share, row[index - 1]), (share, row[index])]
    return [(1.0, row[int(np.argmax(levels))])]


def contrast(study: Study, first: Arm, second: Arm, match: str, suite: str) -> dict[str, Any]:
    """Return `first` less `second` in first replies of a suite, in %/100: by decoding, and the mean
    over decodings (`both`). Each holds an interval, the value under each seed, and the p values of
    `evaluation.statistics.OverSeeds`. Empty where no seed can be compared.
    """
    by_decoding = {
        decoding: _differences(study, first, second, match, decoding, suite)
        for decoding in study.decodings
    }
    if not any(by_decoding.values()):
        return {}
    shown = {decoding: summary(differences) for decoding, differences in by_decoding.items()}
    if len(by_decoding) > 1:
        share = 1 / len(by_decoding)
        pairs = zip(*by_decoding.values(), strict=True)
        shown[BOTH] = summary([Resampled.weighted([(share, d) for d in pair]) for pair in pairs])
    return shown


def _differences(
    study: Study, first: Arm, second: Arm, match: str, decoding: str, suite: str
) -> list[Resampled]:
    """Return the difference under each seed that has both arms, and what they are matched by."""
    differences = []
    for seed in first.seeds:
        if seed not in second.seeds:
            continue
        rows = [arm.rows[arm.seeds.index(seed)] for arm in (first, second)]
        levels = [[_level(study, match, decoding, c) for c in row] for row in rows]
        if any(value is None for of_row in levels for value in of_row):
            continue
        shared = min(max(of_row) for of_row in levels)
        one, other = (reach(of_row, row, shared) for of_row, row in zip(levels, rows, strict=True))
        episodes = min(c.count(decoding, suite) for _, c in (*one, *other))
        one_value, other_value = (
            Resampled.weighted(
                [(w, c.resampled(decoding, suite, FIRST_REPLY, episodes)) for w, c in blend]
            )
            for blend in (one, other)
        )
        differences.append(one_value - other_value)
    return differences


def _level(study: Study, match: str, decoding: str, checkpoint: Checkpoint) -> Any:
    if match == "compute":
        return checkpoint.flops
    if match == "id":
        return checkpoint.resampled(decoding, study.suites[0].name, FIRST_REPLY).value
    if checkpoint.update == 0:
        return 0.0
    divergence = checkpoint.measured.divergence
    return None if divergence is None else divergence["forward_per_reply"]


def summary(differences: Sequence[Resampled]) -> dict[str, Any]:
    """Return differences, one for each seed, as plain data. Of one seed, the interval is over its
    puzzles.
    """
    across = over_seeds([one.estimate for one in differences])
    return average(differences).to_json() | {
        "per_seed": [round(value, 5) for value in across.per_seed],
        "p": _rounded(across.p),
        "p_sign_flip": _rounded(across.p_sign_flip),
    }


def _rounded(p: float) -> float | None:
    return None if np.isnan(p) else float(f"{p:.3g}")


def all_contrasts(study: Study) -> list[dict[str, Any]]:
    """Return every arm of RL less every arm of SFT, at each match, in each suite."""
    packages = {arm.name: arm.package for arm in study.config.chosen()}
    firsts, seconds = (
        [arm for arm in study.arms if packages[arm.name] == package] for package in ("rl", "sft")
    )
    return [
        {
            "first": first.name,
            "second": second.name,
            "match": match,
            "suite": suite,
            "change": change,
        }
        for first in firsts
        for second in seconds
        for match in MATCHES
        for suite in study.titles
        for change in (contrast(study, first, second, match, suite),)
        if change
    ]


def start_by_decoding(study: Study) -> dict[str, dict[str, Any]]:
    """Return first-reply success of the initial checkpoints by decoding and suite: the control for
    sharpening, at lower temperatures what no training has changed.
    """
    starts = study.starts
    return {
        decoding: {
            suite: average([c.resampled(decoding, suite, FIRST_REPLY) for c in starts]).to_json()
            for suite in study.titles
        }
        for decoding in study.start_decodings
    }


def best_decoding(by_decoding: dict[str, dict[str, Any]], suite: str) -> str:
    """Return the decoding in which the initial checkpoints do best on a suite."""
    return max(by_decoding, key=lambda decoding: by_decoding[decoding][suite]["value"])


def over_best_start(study: Study, by_decoding: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return for each arm and suite: its last checkpoints, by decoding, less the initial ones in
    the decoding that is best for them on that suite. As that is chosen on what it is measured on,
    it is the harder comparison for an arm.
    """

    def change(arm: Arm, decoding: str, suite: str) -> dict[str, Any]:
        best = best_decoding(by_decoding, suite)
        return {"best": best} | summary(
            [
                row[-1].resampled(decoding, suite, FIRST_REPLY)
                - row[0].resampled(best, suite, FIRST_REPLY)
                for row in arm.rows
            ]
        )

    return {
        arm.name: {
            decoding: {suite: change(arm, decoding, suite) for suite in study.titles}
            for decoding in study.decodings
        }
        for arm in study.arms
        if all(best in row[0].measured.records for best in by_decoding for row in arm.rows)
    }


def failures(study: Study) -> dict[str, Any]:
    """Return for the initial and the last checkpoints, by decoding and suite, the shares of first
    replies that are right and that fail for each reason, mean over seeds.
    """
    ends = {START: study.starts} | {arm.name: [row[-1] for row in arm.rows] for arm in study.arms}
    return {
        label: {
            decoding: {suite: _reasons(checkpoints, decoding, suite) for suite in study.titles}
            for decoding in study.decodings
        }
        for label, checkpoints in ends.items()
    }


def _reasons(checkpoints: Sequence[Checkpoint], decoding: str, suite: str) -> dict[str, float]:
    shares: dict[str, float] = {}
    for checkpoint in checkpoints:
        turns = [
            position[0]
            for record in checkpoint.measured.records[decoding][suite]
            for position in record.positions()
        ]
        for turn in turns:
            share = 1 / len(turns) / len(checkpoints)
            shares[turn.reason] = shares.get(turn.reason, 0.0) + share
    return {reason: round(shares[reason], 5) for reason in sorted(shares)}


def headline(data: dict[str, Any], names: Sequence[str], match: str, suite: str) -> dict[str, Any]:
    """Return the contrast of two arms out of results; empty where there is none."""
    wanted = (*names, match, suite)
    keys = ("first", "second", "match", "suite")
    for one in data["contrasts"]:
        if tuple(one[key] for key in keys) == wanted:
            return one["change"]
    return {}
