"""Compare initial and last checkpoints over several runs that differ by their seed: the command
behind scripts/across_seeds.sh.

Each run has its own initial checkpoint, so a difference is taken within a run. Intervals come from
a bootstrap that draws runs, and within each drawn run its puzzles, with replacement.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.metrics import NUM_RESAMPLES, Interval, Resampled, percentile_interval
from evaluation.records import Results, TurnReader
from evaluation.report import format_interval, table_rows
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


def average(values: Sequence[float], samples: Sequence[np.ndarray], seed: int = 0) -> Interval:
    """Average a metric or a difference over runs: `values` (runs), with each run's bootstrap
    samples (NUM_RESAMPLES).
    """
    rng = np.random.default_rng(seed)
    runs = rng.integers(len(values), size=(NUM_RESAMPLES, len(values)))
    draws = rng.integers(NUM_RESAMPLES, size=(NUM_RESAMPLES, len(values)))
    means = np.asarray(samples)[runs, draws].mean(axis=1)
    return percentile_interval(float(np.mean(values)), means)


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
    lines = [f"{heading:<{width + 6}}" + "".join(f"{column:>24}" for column in columns)]
    first_results = next(iter(read[0][1].values()))
    for block, decoding, metric in table_rows(summary["verify_iter"], first_results):
        lines.append(block)
        for suite, title in titles.items():
            values, samples = [], []
            for _, results in read:
                labels = list(results)
                start, end = (
                    Resampled(results[label][decoding][suite], metric)
                    for label in (labels[0], labels[-1])
                )
                values.append((start.value, end.value, end.value - start.value))
                samples.append((start.samples, end.samples, end.samples - start.samples))
            averages = [
                average(*column)
                for column in zip(
                    zip(*values, strict=True), zip(*samples, strict=True), strict=True
                )
            ]
            signs = ("", "", "+")
            cells = [format_interval(a, sign) for a, sign in zip(averages, signs, strict=True)]
            lines.append(f"  {title:<{width + 4}}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def main(config: SeedsConfig) -> None:
    """Print the table. Raises InputError."""
    if not config.runs:
        raise InputError("runs: name at least one finished run")
    print(format_across(config.runs))


if __name__ == "__main__":
    run_command(main, SeedsConfig)
