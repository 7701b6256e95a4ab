"""The tables of a run's page: those of table.txt, and how many episodes which checkpoint won."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.metrics import Interval, count_replies
from evaluation.page import Table
from evaluation.records import Records, Results
from evaluation.report import format_interval, reply_blocks, table_rows

CLEAR = " *"
"""Marks a difference whose interval does not hold zero."""

_WON = ((False, True), (True, False), (True, True), (False, False))  # by the first, by the last


def tables(summary: dict[str, Any], results: Results) -> list[Table]:
    """Return the blocks of table.txt; with several checkpoints also the episodes that the last, the
    first, both and neither won.
    """
    labels = list(summary["checkpoints"])
    titles = {name: suite["title"] for name, suite in summary["suites"].items()}
    blocks = [
        _success(summary, *measure)
        for measure in table_rows(summary["verify_iter"], results[labels[0]])
    ]
    for heading, decoding in reply_blocks(results):
        rows = [
            [title, *(str(count_replies(results[label][decoding][name])) for label in labels)]
            for name, title in titles.items()
        ]
        blocks.append(Table(heading[0].upper() + heading[1:], ["suite", *labels], rows))
    if len(labels) > 1:
        first, last = (results[label] for label in (labels[0], labels[-1]))
        columns = ["suite", f"by {labels[-1]} only", f"by {labels[0]} only", "by both", "by none"]
        blocks += [
            Table(
                f"Episodes won, {decoding}", columns, _episodes_won(first, last, decoding, titles)
            )
            for decoding in first
        ]
    return blocks


def _success(summary: dict[str, Any], heading: str, decoding: str, metric: str) -> Table:
    """Return a measure of every checkpoint, with the differences from the first."""
    labels = list(summary["checkpoints"])
    pairs = {label: f"{label} - {labels[0]}" for label in labels[1:]}
    if len(pairs) == 1:
        pairs = {labels[1]: "difference"}
    rows = []
    for name, suite in summary["suites"].items():
        row = [suite["title"]]
        for label in labels:
            metrics = summary["checkpoints"][label][decoding][name]["metrics"]
            row.append(format_interval(Interval.from_json(metrics[metric])))
        for label in pairs:
            change = Interval.from_json(summary["differences"][label][decoding][name][metric])
            row.append(format_interval(change, "+") + (CLEAR if change.direction else ""))
        rows.append(row)
    return Table(
        f"Success, % [95 % interval]: {heading}", ["suite", *labels, *pairs.values()], rows
    )


def _episodes_won(
    first: Records, last: Records, decoding: str, titles: Mapping[str, str]
) -> list[list[str]]:
    rows = []
    for name, title in titles.items():
        pairs = zip(first[decoding][name], last[decoding][name], strict=True)
        won = [(before.is_success, after.is_success) for before, after in pairs]
        rows.append([title, *(str(won.count(kind)) for kind in _WON)])
    return rows
