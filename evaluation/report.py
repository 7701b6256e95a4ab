"""Results of an evaluation as files and as a table: what was played, how well, and a picture."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.decodings import is_main
from evaluation.metrics import (
    PASS_AT,
    Interval,
    Resampled,
    check_names,
    count_replies,
    paired_difference,
    pass_names,
    position_kinds,
    says_what_it_sees,
)
from evaluation.play import summarize_records
from evaluation.records import Records, Results, turn_rows
from evaluation.suites import SuiteConfig
from gym_command.files import atomic_file, write_atomically
from gym_command.run_dir import RunDir

_TITLE_WIDTH = 20  # characters of a suite's title in a line under its bars

MANY = 0.1
"""The share of replies from which on it is said what may be done about them."""


def table_rows(verify_iter: int, records: Records) -> list[tuple[str, str, str]]:
    """Return the blocks of the table, by a checkpoint's records: (heading, decoding, metric). Of
    other temperatures first replies are shown alone.
    """
    rows = [(f"first reply, {d}", d, "first_reply") for d in records]
    decodings = [d for d in records if is_main(d)] or list(records)
    some = next(iter(records[decodings[0]].values()))
    rows += [
        (f"right in at least one of {metric.removeprefix(PASS_AT)} first replies, {d}", d, metric)
        for d in decodings
        for metric in pass_names(next(iter(records[d].values())))
    ]
    for kind in position_kinds(some):
        heading = f"first reply, {kind} positions, {decodings[0]}"
        rows.append((heading, decodings[0], f"first_reply/{kind}"))
    for name in check_names(some):
        heading = f"{name.replace('_', ' ')} in the first reply"
        rows += [(f"{heading}, {d}", d, f"check/{name}") for d in decodings]
    if all(says_what_it_sees(episodes) for d in decodings for episodes in records[d].values()):
        rows += [(f"recognition in the first reply, {d}", d, "recognition") for d in decodings]
    if position_kinds(some):
        heading = f"up to {verify_iter} replies, until the first failed position"
        rows += [(f"{heading}, {d}", d, "until_failure") for d in decodings]
        rows += [(f"whole episode, {d}", d, "episode_success") for d in decodings]
    elif verify_iter > 1:
        rows += [
            (f"episode of up to {verify_iter} replies, {d}", d, "episode_success")
            for d in decodings
        ]
    return rows


def format_table(results: Results, suites: Sequence[SuiteConfig], verify_iter: int) -> str:
    """Return success in % with 95 % intervals, a column a checkpoint, and paired differences."""
    labels = list(results)
    first = labels[0]
    titles = [suite.title or suite.name for suite in suites]
    width = max(len(title) for title in titles) + 2
    differences = [f"{label} - {first}" for label in labels[1:]]
    columns = labels + (differences if len(labels) != 2 else ["difference"])
    cell = max(24, *(len(column) + 2 for column in columns))
    lines = [f"{'success, % [95 % interval]':<{width}}" + "".join(f"{c:>{cell}}" for c in columns)]
    for heading, decoding, metric in table_rows(verify_iter, results[first]):
        lines.append(heading)
        for suite, title in zip(suites, titles, strict=True):
            records = {label: results[label][decoding][suite.name] for label in labels}
            cells = [
                format_interval(Resampled(records[label], metric).interval()) for label in labels
            ]
            for label in labels[1:]:
                difference = paired_difference(records[label], records[first], metric)
                cells.append(format_interval(difference, sign="+"))
            lines.append(f"  {title:<{width - 2}}" + "".join(f"{c:>{cell}}" for c in cells))
    for heading, decoding in reply_blocks(results):
        lines.append(heading)
        for suite, title in zip(suites, titles, strict=True):
            cells = [str(count_replies(results[label][decoding][suite.name])) for label in labels]
            lines.append(f"  {title:<{width - 2}}" + "".join(f"{c:>{cell}}" for c in cells))
    return "\n".join([*lines, *hints(results)])


def reply_blocks(results: Results) -> list[tuple[str, str]]:
    """Return the blocks of the table that count replies without an answer: (heading, decoding), for
    each decoding that has any.
    """
    decodings = list(next(iter(results.values())))
    faulty = [
        decoding
        for decoding in decodings
        for records in results.values()
        for counts in map(count_replies, records[decoding].values())
        if counts.unread + counts.cut + counts.empty > 0
    ]
    heading = "replies that are unread (no answer found) / cut at the token limit / empty"
    return [(f"{heading}, {decoding}", decoding) for decoding in dict.fromkeys(faulty)]


def hints(results: Results) -> list[str]:
    """Say what may be done where many replies hold no answer: a line for each cause."""
    lines = []
    for label, records in results.items():
        for decoding, by_suite in records.items():
            counts = count_replies([record for suite in by_suite.values() for record in suite])
            silent = counts.empty - counts.beyond_context
            causes = (
                (counts.cut, "were cut at the token limit: raise max_new_tokens"),
                (
                    silent,
                    "are empty: a model that thinks may have spent max_new_tokens on it (raise "
                    "it), or have left its answer in reasoning_content (switch thinking off)",
                ),
                (
                    counts.beyond_context,
                    "would not fit in the model's context: lower max_new_tokens or verify_iter",
                ),
                (
                    counts.unread - counts.cut - counts.empty,
                    "are whole and hold no answer in the form asked for: turns.jsonl has them",
                ),
            )
            lines += [
                f"hint: {label}, {decoding}: {100 * count / counts.replies:.0f} % of the replies "
                f"{remedy}"
                for count, remedy in causes
                if count >= MANY * counts.replies
            ]
    return lines


def format_interval(interval: Interval, sign: str = "") -> str:
    """Return an interval in %, such as `41.2 [37.0, 45.6]`; `sign="+"` shows plus signs."""
    value, low, high = (100 * x for x in (interval.value, interval.low, interval.high))
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def format_json(numbers: Mapping[str, Any], sign: str = "") -> str:
    """Return what `Interval.to_json` gave, as `format_interval` does."""
    return format_interval(Interval.from_json(numbers), sign)


def summary(results: Results, suites: Sequence[SuiteConfig], verify_iter: int) -> dict[str, Any]:
    """Return all metrics by checkpoint and suite, and the paired differences from the first."""
    labels = list(results)
    differences: dict[str, Any] = {}
    for label in labels[1:]:
        for _, decoding, metric in table_rows(verify_iter, results[label]):
            for suite in suites:
                after, before = (results[name][decoding][suite.name] for name in (label, labels[0]))
                by_suite = differences.setdefault(label, {}).setdefault(decoding, {})
                change = paired_difference(after, before, metric)
                by_suite.setdefault(suite.name, {})[metric] = change.to_json()
    return {
        "verify_iter": verify_iter,
        "suites": {s.name: {"title": s.title or s.name, "shift": s.shift} for s in suites},
        "checkpoints": {
            label: summarize_records(records, verify_iter) for label, records in results.items()
        },
        "compared_with": labels[0],
        "hints": hints(results),
        "differences": differences,
    }


def write(
    run_dir: str | Path, results: Results, suites: Sequence[SuiteConfig], verify_iter: int
) -> str:
    """Write summary.json, turns.jsonl (every turn), table.txt and success.png; print the table."""
    files = RunDir(run_dir)
    table = format_table(results, suites, verify_iter)
    write_atomically(files.table_file, table + "\n")
    data = summary(results, suites, verify_iter)
    write_atomically(files.summary_file, json.dumps(data, indent=1) + "\n")
    with atomic_file(files.turns_file) as file:
        file.writelines(json.dumps(row) + "\n" for row in turn_rows(results))
    plot(files.success_figure, results, suites, verify_iter)
    print(f"\n{table}")
    return table


def plot(
    path: str | Path, results: Results, suites: Sequence[SuiteConfig], verify_iter: int
) -> None:
    """Draw bars with intervals: success by suite, one panel for each block of the table."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    labels = list(results)
    blocks = table_rows(verify_iter, results[labels[0]])
    size = (max(9, 1.5 * len(suites)), 2.4 * len(blocks))  # inches; room for the suites' titles
    figure, axes = plt.subplots(len(blocks), 1, figsize=size, sharex=True, squeeze=False)
    width = 0.8 / len(labels)
    for axis, (heading, decoding, metric) in zip(axes[:, 0], blocks, strict=True):
        for number, label in enumerate(labels):
            intervals = [
                Resampled(results[label][decoding][suite.name], metric).interval()
                for suite in suites
            ]
            heights = [100 * interval.value for interval in intervals]
            errors = [
                [100 * (i.value - i.low) for i in intervals],
                [100 * (i.high - i.value) for i in intervals],
            ]
            places = [i + (number - (len(labels) - 1) / 2) * width for i in range(len(suites))]
            axis.bar(places, heights, width, yerr=errors, capsize=2, label=label)
        axis.set_ylabel("success, %")
        axis.set_title(heading, fontsize=9)
        axis.grid(axis="y", alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    titles = [textwrap.fill(suite.title or suite.name, _TITLE_WIDTH) for suite in suites]
    axes[-1, 0].set_xticks(range(len(suites)), titles, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
