"""Compare initial and last checkpoints over several runs that differ by their seed: the command
behind scripts/across_seeds.sh.

Each run has its own initial checkpoint, so a difference is taken within a run and paired by puzzle.
Intervals are those of `evaluation.statistics`; of one run alone, that of its puzzles.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.metrics import Interval, Resampled
from evaluation.records import Results, TurnReader
from evaluation.report import format_interval, table_rows
from evaluation.statistics import over_seeds, sign_flip
from gym_command.command import run_command
from gym_command.run_dir import RunDir
from gym_dialogue import InputError
from gym_dialogue.checks import json_records, read_text


@dataclass
class SeedsConfig:
    """Average initial and last checkpoints and their difference over runs with different seeds."""

    runs: list[str] = field(default_factory=list)
    """Directories that hold summary.json and turns.jsonl: training runs or evaluations."""


def read_results(run: str | Path) -> tuple[dict[str, Any], Results]:
    """Read summary.json and turns.jsonl of a directory that report.write left.

    Raises InputError if it holds none.
    """
    files = RunDir(run)
    try:
        summary = json.loads(files.summary_file.read_text())
        rows = json_records(read_text(files.turns_file))
    except (OSError, ValueError) as error:
        raise InputError(
            f"run {run}: has no readable summary.json and turns.jsonl: name a finished run"
        ) from error
    reader = TurnReader()
    for number, row in rows:
        try:
            reader.add(row)
        except ValueError as error:
            raise InputError(
                f"{files.turns_file}, line {number}: is no turn of an evaluation"
            ) from error
    return summary, reader.results()


def average(measured: Sequence[Resampled]) -> Interval:
    """Average a metric or a difference over runs that differ by their seed (`over_seeds`). Of one
    run alone, return its own interval, over puzzles: nothing is known of other seeds then.
    """
    if len(measured) == 1:
        return measured[0].interval()
    mean = over_seeds([one.estimate for one in measured])
    return Interval(mean.value, mean.low, mean.high)


def by_run(measured: Sequence[Resampled]) -> str:
    """Return the difference in % under each seed, with the p of a sign-flip test."""
    values = [one.value for one in measured]
    p = sign_flip(values)
    listed = " ".join(f"{100 * value:+.1f}" for value in values)
    return listed if len(values) < 2 or np.isnan(p) else f"{listed} (p={p:.3f})"


def format_across(runs: Sequence[str | Path]) -> str:
    """Return a table of means over runs: the first checkpoint, the last, and their difference."""
    read = [read_results(run) for run in runs]
    summary = read[0][0]
    if any(s["suites"] != summary["suites"] or len(r) < 2 for s, r in read):
        raise InputError(
            "runs: each must hold an initial and a last checkpoint, on the same suites"
        )
    titles = {name: suite["title"] for name, suite in summary["suites"].items()}
    width = max(map(len, titles.values())) + 2
    columns = ("start", "end", "end - start")
    heading = f"success, % [95 %], {len(runs)} runs"
    shown = "".join(f"{column:>24}" for column in columns)
    lines = [f"{heading:<{width + 6}}{shown}   by run (sign-flip test)"]
    first_results = next(iter(read[0][1].values()))
    for block, decoding, metric in table_rows(summary["verify_iter"], first_results):
        lines.append(block)
        for suite, title in titles.items():
            starts, ends = [], []
            for _, results in read:
                labels = list(results)
                starts.append(Resampled(results[labels[0]][decoding][suite], metric))
                ends.append(Resampled(results[labels[-1]][decoding][suite], metric))
            changes = [end - start for end, start in zip(ends, starts, strict=True)]
            signed = ((starts, ""), (ends, ""), (changes, "+"))
            cells = [format_interval(average(measured), sign) for measured, sign in signed]
            row = "".join(f"{cell:>24}" for cell in cells)
            lines.append(f"  {title:<{width + 4}}{row}   {by_run(changes)}")
    return "\n".join(lines)


def main(config: SeedsConfig) -> None:
    """Print the table. Raises InputError."""
    if not config.runs:
        raise InputError("runs: name at least one finished run")
    print(format_across(config.runs))


if __name__ == "__main__":
    run_command(main, SeedsConfig)
