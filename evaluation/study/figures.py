"""The figures of a study, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

from evaluation.metrics import FIRST_REPLY, Interval
from evaluation.study.analysis import Study
from evaluation.study.frontier import failure_bars, forest, frontier, over_divergence
from evaluation.study.panels import GREY, by_suite


def draw(study: Study, data: dict[str, Any], directory: Path) -> list[tuple[str, Path]]:
    """Write every figure for which there is something to show; (caption, file) of each."""
    directory.mkdir(parents=True, exist_ok=True)
    figures = []
    for name, caption, figure in (
        (
            "frontier",
            "Success of the first reply over success in distribution: a line an arm, thin ones its "
            "seeds, from the initial checkpoint to the last. In grey the initial checkpoints at "
            "other temperatures, what sharpening alone does.",
            frontier,
        ),
        (
            "forest",
            "One arm less the other in first replies, at an equal level of what is named; a dot a "
            "seed.",
            forest,
        ),
        (
            "divergence",
            "Success of the first reply over the KL divergence from the initial checkpoint on the "
            "task that was learned.",
            over_divergence,
        ),
        ("failures", "First replies by why they fail, initial and last checkpoints.", failure_bars),
        ("curves", "Success of the first reply against compute in training.", _curves),
        ("changes", "Change of first-reply success in training, at equal compute.", _changes),
        ("replies", "Success against the number of replies that the verifier allows.", _replies),
        (
            "recognition",
            "First-reply success against what was read right.",
            _recognition,
        ),
    ):
        drawn = figure(study, data)
        if drawn is None:
            continue
        file = directory / f"{name}.png"
        drawn.savefig(file, dpi=110)
        plt.close(drawn)
        figures.append((caption, file))
    return figures


def _curves(study: Study, data: dict[str, Any]) -> plt.Figure:
    """Draw a panel for each suite, a line for each arm; dashed where decoding is greedy."""

    def panel(axis: plt.Axes, suite: str) -> None:
        for number, arm in enumerate(study.arms):
            for style, decoding in zip(("-", "--"), study.decodings, strict=False):
                points = data["curves"][arm.name][decoding][suite][FIRST_REPLY]
                label = arm.title if decoding == study.decodings[0] else f"{arm.title}, {decoding}"
                _band(axis, arm.flops, points, f"C{number}", style, label)
        start = data["curves"][study.arms[0].name][study.decodings[0]][suite][FIRST_REPLY][0]
        axis.axhline(100 * start["value"], color=GREY, linewidth=0.8, linestyle=":")
        axis.set_xlabel("compute in training, FLOPs", fontsize=8)

    return by_suite(study, panel, "success, %", study.suites)


def _changes(study: Study, data: dict[str, Any]) -> plt.Figure:
    """Draw a row for each suite, a mark with its interval for each arm."""
    suites = list(study.titles)
    figure, axes = plt.subplots(
        1, len(study.decodings), figsize=(4.6 * len(study.decodings), 0.55 * len(suites) + 1.2),
        squeeze=False, sharey=True,
    )  # fmt: skip
    for axis, decoding in zip(axes[0], study.decodings, strict=True):
        for number, arm in enumerate(study.arms):
            at = data["equal_compute"]["arms"][arm.name][decoding]
            changes = [Interval.from_json(at[suite][FIRST_REPLY]["change"]) for suite in suites]
            shift = 0.18 * (number - (len(study.arms) - 1) / 2)
            axis.errorbar(
                [100 * c.value for c in changes],
                [row + shift for row in range(len(suites))],
                xerr=[
                    [100 * (c.value - c.low) for c in changes],
                    [100 * (c.high - c.value) for c in changes],
                ],
                fmt="o", markersize=4, capsize=2, color=f"C{number}", label=arm.title,
            )  # fmt: skip
        axis.axvline(0, color=GREY, linewidth=0.8)
        axis.set_title(decoding, fontsize=9)
        axis.set_xlabel("change in training, points", fontsize=8)
        axis.grid(axis="x", alpha=0.3)
    axes[0, 0].set_yticks(range(len(suites)), [study.titles[s] for s in suites], fontsize=8)
    axes[0, 0].invert_yaxis()
    axes[0, -1].legend(fontsize=8)
    figure.tight_layout()
    return figure


def _replies(study: Study, data: dict[str, Any]) -> plt.Figure | None:
    """Draw initial and last checkpoints, by the number of replies."""
    decoding = study.decodings[0]
    if max(len(by[decoding][s]) for by in data["replies"].values() for s in study.titles) < 2:
        return None
    titles = {arm.name: arm.title for arm in study.arms}

    def panel(axis: plt.Axes, suite: str) -> None:
        for number, (label, by_decoding) in enumerate(data["replies"].items()):
            points = by_decoding[decoding][suite]
            color = f"C{number - 1}" if label in titles else GREY
            replies = list(range(1, len(points) + 1))
            _band(axis, replies, points, color, "-", titles.get(label, label))
        axis.set_xlabel("replies", fontsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))

    return by_suite(study, panel, "success, %", study.suites)


def _recognition(study: Study, data: dict[str, Any]) -> plt.Figure | None:
    if "recognition" not in study.metrics(study.decodings[0]):
        return None
    decoding = study.decodings[0]

    def panel(axis: plt.Axes, suite: str) -> None:
        for number, arm in enumerate(study.arms):
            curves = data["curves"][arm.name][decoding][suite]
            xs = [100 * p["value"] for p in curves["recognition"]]
            ys = [100 * p["value"] for p in curves[FIRST_REPLY]]
            axis.plot(xs, ys, "o-", markersize=3, color=f"C{number}", label=arm.title)
            axis.plot(xs[0], ys[0], "s", color=GREY)
        axis.set_xlabel("read right, %", fontsize=8)

    return by_suite(study, panel, "success, %", study.suites)


def _band(
    axis: plt.Axes,
    xs: Sequence[float],
    points: Sequence[dict[str, float]],
    color: str,
    style: str,
    label: str,
) -> None:
    """Draw a line in %, with its intervals as a band."""
    intervals = [Interval.from_json(point) for point in points]
    axis.plot(
        xs, [100 * i.value for i in intervals], style, marker="o", markersize=3,
        linewidth=1.4, color=color, label=label,
    )  # fmt: skip
    axis.fill_between(
        xs, [100 * i.low for i in intervals], [100 * i.high for i in intervals],
        color=color, alpha=0.15 if style == "-" else 0.07, linewidth=0,
    )  # fmt: skip
