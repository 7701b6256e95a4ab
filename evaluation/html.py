"""The report of a run or an evaluation, and the command behind scripts/report.sh."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.claims import claims
from evaluation.curves import plot_learning
from evaluation.page import Figure, Report, disagreement, write_report
from evaluation.replay import compare
from evaluation.seeds import read_results
from evaluation.suites import SuiteConfig, load_task, with_options
from evaluation.tables import CLEAR, tables
from gym_command.command import run_command
from gym_command.run_dir import RunDir
from gym_dialogue import InputError


@dataclass
class ReportConfig:
    """Write report.html into finished runs: the claim, the figures, and dialogues to browse."""

    runs: list[str] = field(default_factory=list)
    """Directories that hold summary.json and turns.jsonl: RL training runs or evaluations."""
    task: str | None = None
    """Which suites, by name or YAML file. None: as in the run's config.yaml."""
    per_suite: int = 6
    """Dialogues shown of each suite and decoding."""


def run_report(run: str | Path, task: str | None = None, per_suite: int = 6) -> Report:
    """Return the report of a directory that report.write left, and draw its learning curves, if it
    has any, into it (learning.png).

    Raises InputError for a directory without results, a task with other suites, and an environment
    that cannot be made; OSError where the directory cannot be written.
    """
    files, run = RunDir(run), Path(run)
    summary, results = read_results(run)
    settings = files.settings()
    task = task or settings.get("task")
    if task is None:
        raise InputError(f"run {run}: its config.yaml names no task: name one with --task")
    suites = _suites_played(task, settings, summary)
    if not suites:
        raise InputError(f"task {task}: has none of the suites of run {run}")
    metrics = files.read_metrics()
    return Report(
        title=f"{task}: {run.resolve().name}",
        claims=claims(summary, results),
        notes=_notes(summary, settings, metrics),
        tables=tables(summary, results),
        figures=_figures(files, metrics),
        dialogues=compare(
            results, suites, summary["verify_iter"], settings.get("prompt_file"), per_suite
        ),
    )


def _suites_played(
    task: str, settings: dict[str, Any], summary: dict[str, Any]
) -> list[SuiteConfig]:
    """Return the suites of a task that were played, as their environments were made."""
    env = settings.get("env") or {}
    changed = {} if "id" in env else env.get("kwargs") or {}  # "id": that of a training
    suites = with_options(load_task(task).suites, changed)
    return [suite for suite in suites if suite.name in summary["suites"]]


def _figures(files: RunDir, metrics: list[dict[str, Any]]) -> list[Figure]:
    figures = []
    if files.success_figure.is_file():
        caption = "Success by suite, with 95 % intervals over puzzles"
        figures.append(Figure(caption, files.success_figure))
    if plot_learning(files.learning_figure, metrics):
        figures.append(Figure("Training, update by update", files.learning_figure))
    return figures


def _notes(
    summary: dict[str, Any], settings: dict[str, Any], metrics: Sequence[dict[str, Any]]
) -> list[str]:
    """Say what was played and trained, how much of it, and how intervals were made."""
    some = next(iter(next(iter(summary["checkpoints"].values())).values()))
    episodes, puzzles = (
        _range(suite[key] for suite in some.values()) for key in ("episodes", "puzzles")
    )
    seed = (settings.get("eval") or {}).get("seed")
    notes = [
        f"Evaluation: {episodes} episodes for each suite and decoding, on {puzzles} different "
        f"puzzles, up to {summary['verify_iter']} replies each"
        + (f"; seed {seed}." if seed is not None else ".")
    ]
    if metrics:
        flops = f", {metrics[-1]['flops']:.2e} FLOPs" if "flops" in metrics[-1] else ""
        replies = sum(row.get("turns", 0) for row in metrics)
        seconds = sum(row.get(k, 0) for row in metrics for k in row if k.startswith("seconds_"))
        notes.append(
            f"Training: {settings.get('algorithm', 'RL')} from {settings.get('model')}, "
            f"{len(metrics)} updates on {replies:,.0f} replies{flops}, {seconds / 60:.1f} minutes; "
            f"seed {settings.get('seed')}."
        )
    return [
        *notes,
        "Intervals are 95 %, by bootstrap over puzzles; differences are paired on the same seeded "
        f"episodes. Clear of zero ({CLEAR.strip()} in tables): the interval does not hold zero.",
    ]


def _range(numbers: Iterable[int]) -> str:
    numbers = sorted(set(numbers))
    return f"{numbers[0]:,}" + (f" to {numbers[-1]:,}" if len(numbers) > 1 else "")


def write_run_report(run: str | Path, task: str | None = None, per_suite: int = 6) -> Path:
    """Write RUN/report.html; returns its path. Raises what run_report and write_report do."""
    path = RunDir(run).report_file
    report = run_report(run, task, per_suite)
    write_report(path, report)
    disagreeing = sum(comparison.disagrees for comparison in report.dialogues)
    if disagreeing:
        print(disagreement(disagreeing, len(report.dialogues)))
    return path


def leave_report(run_dir: str | Path) -> None:
    """Write the report of a run that has just ended. Where it cannot be written a line says so; the
    run has not failed.
    """
    try:
        print(f"Report: {write_run_report(run_dir)}")
    except (InputError, OSError) as error:
        print(f"No report.html: {error}")


def main(config: ReportConfig) -> None:
    """Write the report of each run. Raises InputError."""
    if not config.runs:
        raise InputError("runs: name at least one finished run")
    if config.per_suite < 0:
        raise InputError(f"per_suite={config.per_suite}: must not be negative")
    for run in config.runs:
        try:
            print(write_run_report(run, config.task, config.per_suite))
        except OSError as error:
            raise InputError(
                f"run {run}: its report cannot be written: {error.strerror}"
            ) from error


if __name__ == "__main__":
    run_command(main, ReportConfig)
