"""What a run changed, in sentences with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evaluation.metrics import Interval
from evaluation.records import Results
from evaluation.report import format_interval, table_rows
from evaluation.suites import SHIFT_TITLES

Measure = tuple[str, str, str]
"""A block of the table: (heading, decoding, metric)."""


def claims(summary: dict[str, Any], results: Results) -> list[str]:
    """Say what summary.json holds of first replies, in the first decoding: a sentence for the
    whole, and one for each shift. With several checkpoints, the last is compared with the first,
    and what moved clearly and otherwise in the other measures of the table is said, too.
    """
    labels = list(summary["checkpoints"])
    measures = table_rows(summary["verify_iter"], results[labels[0]])
    if len(labels) == 1:
        whole, by_suite = _levels(summary, labels[0], measures)
    else:
        whole, by_suite = _changes(summary, labels[0], labels[-1], measures)
    sentences = [whole]
    for shift, heading in SHIFT_TITLES.items():
        clauses = [
            by_suite[name] for name, suite in summary["suites"].items() if suite["shift"] == shift
        ]
        if clauses:
            sentences.append(f"{heading}: {'; '.join(clauses)}.")
    return sentences


def _levels(
    summary: dict[str, Any], label: str, measures: Sequence[Measure]
) -> tuple[str, dict[str, str]]:
    """Return the sentence for the whole and a clause for each suite, of one checkpoint."""
    decoding = measures[0][1]
    clauses = {
        name: f"{suite['title']} {format_interval(_first_reply(summary, label, decoding, name))} %"
        for name, suite in summary["suites"].items()
    }
    return f"{label}: first replies that are right ({decoding}), with 95 % intervals.", clauses


def _changes(
    summary: dict[str, Any], first: str, last: str, measures: Sequence[Measure]
) -> tuple[str, dict[str, str]]:
    """Return the sentence for the whole and a clause for each suite, of a change."""
    decoding = measures[0][1]
    differences = summary["differences"][last]
    moved: dict[int, list[str]] = {1: [], -1: [], 0: []}
    clauses = {}
    for name, suite in summary["suites"].items():
        change = Interval.from_json(differences[decoding][name]["first_reply"])
        moved[change.direction].append(suite["title"])
        before, after = (
            100 * _first_reply(summary, label, decoding, name).value for label in (first, last)
        )
        clauses[name] = (
            f"{suite['title']} {before:.1f} \N{RIGHTWARDS ARROW} {after:.1f} %, "
            + _change(differences, measures, name)
        )
    verbs = {1: "rose", -1: "fell", 0: "did not change clearly"}
    parts = [f"{verbs[sign]} on {_listed(titles)}" for sign, titles in moved.items() if titles]
    whole = (
        f"From {first} to {last}, the share of first replies that are right ({decoding}) "
        f"{'; '.join(parts)}."
    )
    return whole, clauses


def _first_reply(summary: dict[str, Any], label: str, decoding: str, suite: str) -> Interval:
    metrics = summary["checkpoints"][label][decoding][suite]["metrics"]
    return Interval.from_json(metrics["first_reply"])


def _change(differences: dict[str, Any], measures: Sequence[Measure], suite: str) -> str:
    """Return `+1.4 [-1.0, +4.0], not clear of zero`, of the first measure, with the others that
    moved clearly where it did not, or the other way.
    """
    changes = {
        heading: Interval.from_json(differences[decoding][suite][metric])
        for heading, decoding, metric in measures
    }
    (_, change), *others = changes.items()
    otherwise = [
        f"{heading}: {format_interval(other, '+')}"
        for heading, other in others
        if other.direction not in (0, change.direction)
    ]
    return f"{format_interval(change, '+')}, {'' if change.direction else 'not '}clear of zero" + (
        f" (but clearly {'; '.join(otherwise)})" if otherwise else ""
    )


def _listed(names: Sequence[str]) -> str:
    """Return names as `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
