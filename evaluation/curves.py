"""The learning curves of a training run, as its metrics.jsonl has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_PANELS = {
    "reward_per_turn": "reward per reply",
    "first_reply": "first reply right, % (training episodes, sampled)",
    "approx_kl": "KL of one update, nats per token",
    "entropy": "entropy, nats per token",
}


def plot_learning(path: str | Path, metrics: list[dict[str, Any]]) -> bool:
    """Draw what there is of reward, first-reply success, KL and entropy by update, and the small
    evaluations in between. Returns False, and draws nothing, where there is none of it.
    """
    shown = [name for name in _PANELS if any(name in row for row in metrics)]
    if not shown:
        return False
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(9, 2.5 * rows), squeeze=False)
    for axis, name in zip(axes.flat, shown, strict=False):
        scale = 100 if name == "first_reply" else 1
        axis.plot(*_curve(metrics, name, scale), label="training")
        axis.set_title(_PANELS[name], fontsize=9)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("update")
    monitored = [k for k in dict.fromkeys(k for row in metrics for k in row) if k[:5] == "eval/"]
    if "first_reply" in shown and monitored:
        axis = axes.flat[shown.index("first_reply")]
        for name in monitored:
            axis.plot(*_curve(metrics, name, 100), "o-", markersize=3, label=name[5:])
        axis.set_title("first reply right, %", fontsize=9)
        axis.legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def _curve(metrics: list[dict[str, Any]], name: str, scale: float) -> tuple[list, list]:
    points = [(row["update"], scale * row[name]) for row in metrics if name in row]
    return [update for update, _ in points], [value for _, value in points]
