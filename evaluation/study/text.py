"""A study in words: its claims with their numbers, and its table."""

from __future__ import annotations

from typing import Any

from evaluation.metrics import Interval
from evaluation.report import format_interval
from evaluation.study.analysis import Study

_MAIN = "first_reply"
_SIDES = {1: "above", -1: "below", 0: "not clear of"}
_HEADINGS = {
    "first_reply": "first reply",
    "recognition": "recognition in the first reply",
    "until_failure": "up to {} replies, until the first failed position",
    "episode_success": "episode of up to {} replies",
}


def claims(study: Study, data: dict[str, Any]) -> list[str]:
    """Say the claim, under another rule, and what each arm did in each suite, at equal compute."""
    if not study.arms:
        return ["Nothing has been measured yet."]
    decoding = study.decodings[0]
    sentences = [_unfinished(study)] if study.missing else []
    arms = data["equal_compute"]["arms"]
    for suite in [s for s in study.suites if s.shift == "rule"][:1]:
        for metric in (_MAIN, *_end_metrics(study, data)[:1]):
            changes = [
                f"{arm.title} {_change(arms[arm.name][decoding][suite.name][metric])}"
                for arm in study.arms
            ]
            sentences.append(
                f"{suite.title or suite.name}, at equal compute, {_heading(study, metric)}, "
                f"{decoding}: {'; '.join(changes)}."
            )
    for arm in study.arms:
        at = data["equal_compute"]["arms"][arm.name]
        parts = [
            f"{suite.title or suite.name} {_change(at[decoding][suite.name][_MAIN])}"
            for suite in study.suites
        ]
        seeds = f"{len(arm.rows)} seed{'s' if len(arm.rows) > 1 else ''}"
        sentences.append(
            f"{arm.title}, {at['flops']:.2g} FLOPs of training ({seeds}; first reply, "
            f"{decoding}, %): {'; '.join(parts)}."
        )
    return sentences


def _end_metrics(study: Study, data: dict[str, Any]) -> list[str]:
    """Return the end metrics that all arms have at equal compute."""
    arms = data["equal_compute"]["arms"].values()
    return study.end_metrics() if all(arm["is_end"] for arm in arms) else []


def _heading(study: Study, metric: str) -> str:
    name, _, kind = metric.partition("/")
    heading = _HEADINGS[name].format(study.config.end_verify_iter)
    return heading + (f", {kind} positions" if kind else "")


def _change(cell: dict[str, Any]) -> str:
    change = Interval.from_json(cell["change"])
    verdict = f"{_SIDES[change.direction]} the initial checkpoint"
    start, value = 100 * cell["start"]["value"], 100 * cell["value"]["value"]
    return f"{start:.1f} -> {value:.1f}, {format_interval(change, '+')}, {verdict}"


def _unfinished(study: Study) -> str:
    return f"Unfinished: {', '.join(study.missing)} not there yet; what follows is of the rest."


def table_rows(study: Study, data: dict[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """Return blocks of the table: (heading, rows of suite, start, values and changes)."""
    blocks = []
    longest = _longest(study, data)
    for metric in study.metrics() + _end_metrics(study, data):
        for decoding in study.decodings:
            heading = f"{_heading(study, metric)}, {decoding}"
            rows = []
            for suite, title in study.titles.items():
                cells = [
                    data["equal_compute"]["arms"][arm.name][decoding][suite][metric]
                    for arm in study.arms
                ]
                row = [title, format_interval(Interval.from_json(cells[longest]["start"]))]
                for cell in cells:
                    row += [
                        format_interval(Interval.from_json(cell["value"])),
                        format_interval(Interval.from_json(cell["change"]), "+"),
                    ]
                rows.append(row)
            blocks.append((heading, rows))
    return blocks


def _longest(study: Study, data: dict[str, Any]) -> int:
    """Return the number of an arm that is at its end, where most episodes were played."""
    arms = data["equal_compute"]["arms"]
    return max(range(len(study.arms)), key=lambda n: arms[study.arms[n].name]["is_end"])


def table_columns(study: Study) -> list[str]:
    """Return the heads of the columns of `table_rows`."""
    arms = [column for arm in study.arms for column in (arm.title, f"{arm.title} - start")]
    return ["success, % [95 %]", "start", *arms]


def format_table(study: Study, data: dict[str, Any]) -> str:
    """Return the table as text."""
    columns = table_columns(study)
    first = max(map(len, study.titles.values())) + 4
    width = max(22, *(len(column) + 2 for column in columns))

    def line(cells: list[str]) -> str:
        return f"{cells[0]:<{first}}" + "".join(f"{cell:>{width}}" for cell in cells[1:])

    lines = [line(columns)]
    for heading, rows in table_rows(study, data):
        lines.append(heading)
        lines += [line([f"  {row[0]}", *row[1:]]) for row in rows]
    return "\n".join(lines)
