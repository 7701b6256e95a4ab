"""A grid of panels, one for each suite, that all figures of a study share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from evaluation.study.analysis import Study
from evaluation.suites import SuiteConfig

GREY = "0.45"
_COLUMNS = 3
_PANEL = (3.4, 2.6)  # inches


def by_suite(
    study: Study,
    panel: Callable[[plt.Axes, str], None],
    label: str,
    suites: Sequence[SuiteConfig],
) -> plt.Figure:
    """Draw a panel for each of the suites, with one legend."""
    names = [suite.name for suite in suites]
    columns = 2 if len(names) == 4 else min(_COLUMNS, len(names))
    lines = -(-len(names) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(_PANEL[0] * columns, _PANEL[1] * lines), squeeze=False
    )
    for axis, suite in zip(axes.flat, names, strict=False):
        panel(axis, suite)
        axis.set_title(study.titles[suite], fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for row in axes:
        row[0].set_ylabel(label, fontsize=8)
    axes[0, 0].legend(fontsize=6)
    figure.tight_layout()
    return figure
