"""A study in words: its claims with their numbers, and its table."""

from __future__ import annotations

import itertools
from typing import Any

from evaluation.metrics import FIRST_REPLY, PASS_AT, Interval
from evaluation.report import format_interval, format_json
from evaluation.study.analysis import Arm, Study
from evaluation.study.contrasts import MATCHES, headline, title_of

_SIDES = {1: "above", -1: "below", 0: "not clear of"}
_HEADINGS = {
    "first_reply": "first reply",
    "recognition": "recognition in the first reply",
    "until_failure": "up to {} replies, until the first failed position",
    "episode_success": "episode of up to {} replies",
}


def claims(study: Study, data: dict[str, Any]) -> list[str]:
    """Say the claim, what speaks for and against it, and what each arm did in each suite."""
    if not study.arms:
        return ["Nothing has been measured yet."]
    sentences = [_unfinished(study)] if study.missing else []
    sentences += _headlines(study, data)
    sentences += _against_temperature(study, data)
    sentences += _under_another_rule(study, data)
    return sentences + [_arm(study, data, arm) for arm in study.arms]


def _headlines(study: Study, data: dict[str, Any]) -> list[str]:
    """Say the first arm of the headline less the second, at each match."""
    titles = {arm.name: arm.title for arm in study.arms}
    names, suite = study.config.headline, study.primary
    sentences = []
    for match, heading in MATCHES.items():
        change = headline(data, names, match, suite)
        if not change:
            continue
        first, second = (titles[name] for name in names)
        parts = [f"{title_of(d)} {_difference(change[d])}" for d in reversed(change)]
        sentences.append(
            f"{first} less {second}, {study.titles[suite]}, at {heading} "
            f"({_seeds(len(change[study.decodings[0]]['per_seed']))}, first reply): "
            f"{'; '.join(parts)}."
        )
    return sentences


def _difference(change: dict[str, Any]) -> str:
    """Return `+3.1 [+0.2, +6.0] (by seed +2.0 +4.2; p 0.040, by sign flips 0.500)`."""
    shown = format_json(change, "+")
    if len(change["per_seed"]) < 2:
        return f"{shown}, over the puzzles of one seed"
    by_seed = " ".join(f"{100 * value:+.1f}" for value in change["per_seed"])
    p, flipped = (_p(change[name]) for name in ("p", "p_sign_flip"))
    return f"{shown} (by seed {by_seed}; p {p}, by sign flips {flipped})"


def _p(value: float | None) -> str:
    if value is None:
        return "unknown"
    return "below 0.001" if value < 0.001 else f"{value:.3f}"


def _against_temperature(study: Study, data: dict[str, Any]) -> list[str]:
    """Say what each arm has gained over the initial checkpoint at its best temperature."""
    shown = [
        suite for suite in study.suites if suite.name == study.primary or suite.shift != "rule"
    ]
    sentences = []
    for arm in study.arms:
        by_decoding = data["over_best_start"].get(arm.name)
        if not by_decoding:
            continue
        parts = []
        for suite in shown:
            changes = {decoding: by_suite[suite.name] for decoding, by_suite in by_decoding.items()}
            listed = ", ".join(f"{d} {format_json(change, '+')}" for d, change in changes.items())
            best = changes[study.decodings[0]]["best"]
            parts.append(f"{study.titles[suite.name]} ({best}): {listed}")
        sentences.append(
            f"{arm.title} at its end, less the initial checkpoint in its best decoding: "
            f"{'; '.join(parts)}."
        )
    return sentences


def _under_another_rule(study: Study, data: dict[str, Any]) -> list[str]:
    """Say what every arm did at equal compute in the suite of the claim."""
    decoding, suite = study.decodings[0], study.primary
    arms = data["equal_compute"]["arms"]
    sentences = []
    for metric in (FIRST_REPLY, *_end_metrics(study, data)[:1]):
        changes = [
            f"{arm.title} {_change(arms[arm.name][decoding][suite][metric])}" for arm in study.arms
        ]
        sentences.append(
            f"{study.titles[suite]}, at equal compute, {_heading(study, metric)}, "
            f"{decoding}: {'; '.join(changes)}."
        )
    return sentences


def _arm(study: Study, data: dict[str, Any], arm: Arm) -> str:
    decoding = study.decodings[0]
    at = data["equal_compute"]["arms"][arm.name]
    parts = [
        f"{title} {_change(at[decoding][suite][FIRST_REPLY])}"
        for suite, title in study.titles.items()
    ]
    return (
        f"{arm.title}, {at['flops']:.2g} FLOPs of training ({_seeds(len(arm.rows))}; first reply, "
        f"{decoding}, %): {'; '.join(parts)}."
    )


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


def _end_metrics(study: Study, data: dict[str, Any]) -> list[str]:
    """Return the end metrics that all arms have at equal compute."""
    arms = data["equal_compute"]["arms"].values()
    return study.end_metrics() if all(arm["is_end"] for arm in arms) else []


def _heading(study: Study, metric: str) -> str:
    name, _, kind = metric.partition("/")
    if name == "check":
        return f"{kind.replace('_', ' ')} in the first reply"
    if metric.startswith(PASS_AT):
        return f"right in at least one of {metric.removeprefix(PASS_AT)} first replies"
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
    by_decoding = {d: study.metrics(d) + _end_metrics(study, data) for d in study.decodings}
    for metric in dict.fromkeys(itertools.chain(*by_decoding.values())):
        for decoding in (d for d, metrics in by_decoding.items() if metric in metrics):
            heading = f"{_heading(study, metric)}, {decoding}"
            rows = []
            for suite, title in study.titles.items():
                cells = [
                    data["equal_compute"]["arms"][arm.name][decoding][suite][metric]
                    for arm in study.arms
                ]
                row = [title, format_json(cells[longest]["start"])]
                for cell in cells:
                    row += [format_json(cell["value"]), format_json(cell["change"], "+")]
                rows.append(row)
            blocks.append((heading, rows))
    return blocks


def start_tables(
    study: Study, data: dict[str, Any]
) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return the table of the initial checkpoints by decoding (heading, columns, rows), if they
    were evaluated in several.
    """
    decodings = list(data["start"])
    if len(decodings) < 2:
        return []
    heading = f"initial checkpoint, first reply: {', '.join(decodings)}"
    rows = [
        [title, *(format_json(data["start"][decoding][suite]) for decoding in decodings)]
        for suite, title in study.titles.items()
    ]
    return [(heading, ["success, % [95 %]", *decodings], rows)]


def _longest(study: Study, data: dict[str, Any]) -> int:
    """Return the number of an arm that is at its end, where most episodes were played."""
    arms = data["equal_compute"]["arms"]
    return max(range(len(study.arms)), key=lambda n: arms[study.arms[n].name]["is_end"])


def table_columns(study: Study) -> list[str]:
    """Return the heads of the columns of `table_rows`."""
    arms = [column for arm in study.arms for column in (arm.title, f"{arm.title} - start")]
    return ["success, % [95 %]", "start", *arms]


def format_table(study: Study, data: dict[str, Any]) -> str:
    """Return the tables as text."""
    columns = table_columns(study)
    first = max(map(len, study.titles.values())) + 4
    width = max(22, *(len(column) + 2 for column in columns))

    def line(cells: list[str]) -> str:
        return f"{cells[0]:<{first}}" + "".join(f"{cell:>{width}}" for cell in cells[1:])

    def indented(rows: list[list[str]]) -> list[str]:
        return [line([f"  {row[0]}", *row[1:]]) for row in rows]

    lines = []
    for heading, decodings, rows in start_tables(study, data):
        lines += [heading, line(decodings), *indented(rows), ""]
    lines.append(line(columns))
    for heading, rows in table_rows(study, data):
        lines += [heading, *indented(rows)]
    return "\n".join(lines)
