"""A study's results as plain data, for results.json: curves over compute, changes from the initial
checkpoint at equal compute, arms against each other, success against verifier replies, and the KL
divergence from the initial checkpoint against what was forgotten.
"""

from __future__ import annotations

from typing import Any

from evaluation.metrics import FIRST_REPLY
from evaluation.study.analysis import Arm, Study
from evaluation.study.contrasts import all_contrasts, failures, over_best_start, start_by_decoding
from evaluation.study.layout import START


def results(study: Study) -> dict[str, Any]:
    """Return all of it as plain data, for results.json. Compute is in FLOPs since the initial
    checkpoint, success in fractions.
    """
    config = study.config
    data: dict[str, Any] = {
        "task": config.task,
        "scale": config.scale,
        "decodings": study.decodings,
        "headline": config.headline,
        "primary": study.primary,
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
            "seeds": arm.seeds,
            "updates": [c.update for c in arm.rows[0]],
            "flops": arm.flops,
        }
        for arm in study.arms
    }
    data["curves"] = {arm.name: _curves(study, arm) for arm in study.arms}
    data["equal_compute"] = {"budget": study.budget, "arms": equal_compute(study)}
    data["changes"] = {arm.name: end_changes(study, arm) for arm in study.arms}
    data["replies"] = replies(study)
    data["divergence"] = divergences(study)
    data["start"] = start_by_decoding(study)
    data["over_best_start"] = over_best_start(study, data["start"])
    data["contrasts"] = all_contrasts(study)
    data["failures"] = failures(study)
    return data


def _curves(study: Study, arm: Arm) -> dict[str, Any]:
    """Return every metric of every checkpoint, by decoding and suite."""

    def curve(decoding: str, suite: str, metric: str) -> list[dict[str, float | None]]:
        points = range(len(arm.flops))
        return [arm.value(i, decoding, suite, metric).to_json() for i in points]

    return {
        decoding: {
            suite: {metric: curve(decoding, suite, metric) for metric in study.metrics(decoding)}
            for suite in study.titles
        }
        for decoding in study.decodings
    }


def end_changes(study: Study, arm: Arm) -> dict[str, Any]:
    """Return the change of first-reply success from the initial to the last checkpoint, by decoding
    and suite.
    """
    last = len(arm.flops) - 1
    return {
        decoding: {
            suite: _against_start(arm, last, decoding, suite, FIRST_REPLY)["change"]
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
        by_arm[arm.name] = {
            "update": arm.rows[0][index].update,
            "flops": arm.flops[index],
            "is_end": is_end,
        } | {
            decoding: {
                suite: {
                    metric: _against_start(arm, index, decoding, suite, metric)
                    for metric in study.metrics(decoding) + study.end_metrics() * is_end
                }
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
                    now, before = checkpoint.paired(row[0], decoding, suite, FIRST_REPLY)
                    changes[suite] = round(now.value - before.value, 5)
                points.append(
                    {"arm": arm.name, "row": seed, "update": checkpoint.update}
                    | checkpoint.measured.divergence
                    | {"changes": changes}
                )
    return points
