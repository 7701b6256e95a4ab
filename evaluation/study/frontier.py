"""The figures that compare arms at a glance: success out of distribution over that in distribution
and over KL divergence, one arm less another with a dot for each seed, and why replies fail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from evaluation.decodings import own_temperature
from evaluation.metrics import FIRST_REPLY, Interval
from evaluation.study.analysis import Checkpoint, Study
from evaluation.study.contrasts import MATCHES, headline, title_of, whole
from evaluation.study.layout import START
from evaluation.study.panels import GREY, by_suite

_RIGHT = "right"


def frontier(study: Study, data: dict[str, Any]) -> plt.Figure:
    """Draw success in a suite over that in distribution: a trajectory for each arm, thin for each
    seed; in grey what the initial checkpoints do in each decoding.
    """
    first = study.suites[0].name

    def panel(axis: plt.Axes, suite: str) -> None:
        def point(checkpoint: Checkpoint) -> tuple[float, float]:
            return _success(study, checkpoint, first), _success(study, checkpoint, suite)

        _trajectories(axis, study, point)
        starts = data["start"]
        xs, ys = ([100 * starts[d][s]["value"] for d in starts] for s in (first, suite))
        order = sorted(range(len(xs)), key=xs.__getitem__)
        axis.plot([xs[i] for i in order], [ys[i] for i in order], "s--", color=GREY, markersize=3)
        for decoding, x, y in zip(starts, xs, ys, strict=True):
            temperature = own_temperature(decoding)
            name = f"T={temperature:g}" if temperature else decoding
            axis.annotate(name, (x, y), fontsize=5, color=GREY, xytext=(2, -6),
                          textcoords="offset points")  # fmt: skip
        axis.set_xlabel(f"{study.titles[first]}, %", fontsize=7)

    return by_suite(study, panel, "success, %", study.suites[1:])


def over_divergence(study: Study, data: dict[str, Any]) -> plt.Figure | None:
    """Draw success in each suite over the KL divergence from the initial checkpoint."""
    measured = [c for arm in study.arms for row in arm.rows for c in row[1:]]
    if any(c.measured.divergence is None for c in measured):
        return None

    def panel(axis: plt.Axes, suite: str) -> None:
        def point(checkpoint: Checkpoint) -> tuple[float, float]:
            moved = (checkpoint.measured.divergence or {}).get("forward_per_reply", 0.0)
            return moved, _success(study, checkpoint, suite)

        _trajectories(axis, study, point)
        axis.set_xlabel("KL(initial || checkpoint), nats a reply", fontsize=7)

    return by_suite(study, panel, "success, %", study.suites)


def _success(study: Study, checkpoint: Checkpoint, suite: str) -> float:
    """Return first-reply success in %, in the main decoding."""
    return 100 * checkpoint.resampled(study.decodings[0], suite, FIRST_REPLY).value


def _trajectories(
    axis: plt.Axes, study: Study, point: Callable[[Checkpoint], tuple[float, float]]
) -> None:
    """Draw the points of each arm's checkpoints: a thin line a seed, their mean with a mark at its
    end.
    """
    for number, arm in enumerate(study.arms):
        points = np.array([[point(checkpoint) for checkpoint in row] for row in arm.rows])
        color = f"C{number}"
        for of_seed in points if len(points) > 1 else []:
            axis.plot(*of_seed.T, color=color, linewidth=0.5, alpha=0.5)
        xs, ys = points.mean(axis=0).T
        axis.plot(xs, ys, ".-", color=color, linewidth=1.6, markersize=4, label=arm.title)
        axis.plot(xs[-1], ys[-1], "o", color=color, markersize=6)


def forest(study: Study, data: dict[str, Any]) -> plt.Figure | None:
    """Draw the first arm of the headline less the second: a row for each suite, an interval for
    each match, and a dot for each seed.
    """
    decoding = whole(study.decodings)
    suites = list(study.titles)
    rows = {
        (match, suite): headline(data, study.config.headline, match, suite)
        for match in MATCHES
        for suite in suites
    }
    if not any(rows.values()):
        return None
    figure, axis = plt.subplots(figsize=(6.4, 0.55 * len(suites) + 1.2))
    for number, (match, heading) in enumerate(MATCHES.items()):
        label: str | None = f"at {heading}"
        for row, suite in enumerate(suites):
            if not rows[match, suite]:
                continue
            change = rows[match, suite][decoding]
            interval, y = Interval.from_json(change), row + 0.25 * (number - 1)
            value, low, high = (100 * x for x in (interval.value, interval.low, interval.high))
            ends = [[value - low], [high - value]]
            axis.errorbar(value, y, xerr=ends, fmt="D", markersize=4, capsize=2,
                          color=f"C{number}", label=label)  # fmt: skip
            seeds = [100 * of_seed for of_seed in change["per_seed"]]
            axis.plot(seeds, [y] * len(seeds), ".", color=f"C{number}", alpha=0.4, markersize=4)
            label = None
    axis.axvline(0, color=GREY, linewidth=0.8)
    axis.set_yticks(range(len(suites)), [study.titles[suite] for suite in suites], fontsize=7)
    axis.invert_yaxis()
    first, second = study.config.headline
    titles = {arm.name: arm.title for arm in study.arms}
    what = f"{titles[first]} less {titles[second]}, points ({title_of(decoding)})"
    axis.set_xlabel(what, fontsize=8)
    axis.grid(axis="x", alpha=0.3)
    axis.legend(fontsize=6)
    figure.tight_layout()
    return figure


def failure_bars(study: Study, data: dict[str, Any]) -> plt.Figure:
    """Draw a bar for the initial and each last checkpoint: first replies by why they fail."""
    decoding = study.decodings[0]
    shares = {label: by_decoding[decoding] for label, by_decoding in data["failures"].items()}
    titles = {START: "initial"} | {arm.name: arm.title for arm in study.arms}
    totals: Counter[str] = Counter()
    for of_suites in shares.values():
        for reasons in of_suites.values():
            totals.update(reasons)
    ordered = [_RIGHT, *(reason for reason, _ in totals.most_common() if reason != _RIGHT)]

    def panel(axis: plt.Axes, suite: str) -> None:
        labels = list(shares)
        left = [0.0] * len(labels)
        for number, reason in enumerate(ordered):
            widths = [100 * shares[label][suite].get(reason, 0.0) for label in labels]
            axis.barh(range(len(labels)), widths, left=left, color=f"C{number}", label=reason)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axis.set_yticks(range(len(labels)), [titles[label] for label in labels], fontsize=6)
        axis.invert_yaxis()
        axis.set_xlim(0, 100)
        axis.set_xlabel("first replies, %", fontsize=7)

    return by_suite(study, panel, "", study.suites)
