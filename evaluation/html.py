"""The report: one HTML page that holds all it shows, of a run or of a study, and the command behind
scripts/report.sh, which makes that of a run.

The page (report.html beside this file is its template) loads nothing: styles, script, figures and
the images of dialogues are in it. What models and environments wrote is only ever shown as text.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import PIL.Image

from evaluation.curves import plot_learning
from evaluation.metrics import Interval, count_replies
from evaluation.records import Results
from evaluation.replay import Comparison, Played, Utterance, compare, encode_image
from evaluation.report import format_interval, reply_blocks, table_rows
from evaluation.seeds import read_results
from evaluation.suites import load_task, with_options
from gym_command.command import run_command
from gym_command.run_dir import RunDir
from gym_dialogue import InputError

__all__ = [
    "Comparison",
    "Figure",
    "Played",
    "Report",
    "Table",
    "Utterance",
    "compare",
    "write_report",
]

MAX_IMAGE_BYTES = 3_000_000
"""Of all images of dialogues in a page together; beyond it large ones are shrunk."""

SMALL_SIDE = 128
"""Pixels: an image up to here is kept as it is, for little would be saved and much not be seen."""

SHIFTS = {
    "none": "In distribution",
    "puzzle": "New puzzles",
    "rule": "Another rule",
    "visual": "Other looks",
}
"""What a page calls the shifts of SuiteConfig."""

CLEAR = " *"
"""Marks a difference whose interval does not hold zero."""


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading."""

    caption: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Figure:
    """A picture, PNG or SVG."""

    caption: str
    file: Path


@dataclass(frozen=True)
class Report:
    """What a page says, in its order: the claim, what it rests on, and what there is to look at."""

    title: str
    claims: list[str]
    """Sentences with their numbers. The first is the one to remember."""
    notes: list[str] = field(default_factory=list)
    """Sizes, and how the numbers were made."""
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    dialogues: list[Comparison] = field(default_factory=list)


@dataclass
class Config:
    """Write report.html into finished runs: the claim, the figures, and dialogues to browse."""

    runs: list[str] = field(default_factory=list)
    """Directories that hold summary.json and turns.jsonl: RL training runs or evaluations."""
    task: str | None = None
    """Which suites, by name or YAML file. None: as in the run's config.yaml."""
    per_suite: int = 6
    """Dialogues shown of each suite and decoding."""


def write_report(path: str | Path, report: Report) -> None:
    """Write the page.

    Raises InputError for a figure that cannot be read, and OSError where the page cannot be
    written.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_name("report.html").read_text("utf-8"))
    figures = [(figure.caption, _figure_uri(figure.file)) for figure in report.figures]
    disagreeing = sum(comparison.disagrees for comparison in report.dialogues)
    notes = list(report.notes)
    if disagreeing:
        notes.append(disagreement(disagreeing, len(report.dialogues)))
    page = template.render(
        report=report, notes=notes, figures=figures, data=_browser_data(report.dialogues)
    )
    Path(path).write_text(page, encoding="utf-8", errors="replace")


def disagreement(count: int, of: int) -> str:
    """The line that says that episodes came out otherwise when they were played again."""
    return (
        f"{count} of {of} dialogues, played again, came out otherwise than recorded (another "
        "version, or other settings, of the environment): they are shown without prompts and images"
    )


def _figure_uri(file: Path) -> str:
    kinds = {".png": "image/png", ".svg": "image/svg+xml"}
    if Path(file).suffix not in kinds:
        raise InputError(f"figure {file}: must be a .png or .svg file")
    try:
        return _data_uri(Path(file).read_bytes(), kinds[Path(file).suffix])
    except OSError as error:
        raise InputError(f"figure {file}: cannot be read: {error.strerror}") from error


def _data_uri(content: bytes, kind: str | None = None) -> str:
    kind = kind or ("image/png" if content.startswith(b"\x89PNG") else "image/jpeg")
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _browser_data(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """What the page's script reads. Texts of prompts and images are numbered: one that many
    dialogues share is there once.
    """
    texts: dict[str, int] = {}
    images: dict[bytes, int] = {}

    def shown(played: Played) -> dict[str, Any]:
        dialogues = []
        for dialogue in played.dialogues:
            prompt: dict[str, int] = {}
            replies = []
            for said in dialogue:
                if said.role == "user":
                    prompt["text"] = texts.setdefault(said.text, len(texts))
                    if said.image is not None:
                        prompt["image"] = images.setdefault(said.image, len(images))
                else:
                    keys = ("text", "reward", "outcomes", "feedback", "is_right", "recognized")
                    replies.append({key: getattr(said, key) for key in keys})
            dialogues.append({"prompt": prompt, "replies": replies})
        return {
            "won": played.is_success,
            "reward": round(played.total_reward, 5),
            "dialogues": dialogues,
        }

    labels = dict.fromkeys(label for c in comparisons for label in c.played)
    return {
        "labels": list(labels),
        "shifts": SHIFTS,
        "comparisons": [
            {key: getattr(c, key) for key in ("suite", "title", "shift", "decoding", "number")}
            | {"puzzle": c.puzzle, "disagrees": c.disagrees}
            | {"played": {label: shown(played) for label, played in c.played.items()}}
            for c in comparisons
        ],
        "texts": list(texts),
        "images": [_data_uri(image) for image in _fitting(list(images))],
    }


def _fitting(images: list[bytes]) -> list[bytes]:
    """The images; the large ones shrunk alike if together they take more than a page should."""
    total = sum(map(len, images))
    if total <= MAX_IMAGE_BYTES:
        return images
    scale = (MAX_IMAGE_BYTES / total) ** 0.5
    return [_shrunk(image, scale) for image in images]


def _shrunk(image: bytes, scale: float) -> bytes:
    with PIL.Image.open(io.BytesIO(image)) as picture:
        side = max(picture.size)
        if side <= SMALL_SIDE:
            return image
        return encode_image(np.asarray(picture.convert("RGB")), max(SMALL_SIDE, int(side * scale)))


def claims(summary: dict[str, Any], results: Results) -> list[str]:
    """What summary.json says of first replies, in the first decoding: a sentence for the whole, and
    one for each shift, with what moved clearly and otherwise in the other measures of the table.
    The last checkpoint is compared with the first.
    """
    labels = list(summary["checkpoints"])
    start, end = labels[0], labels[-1]
    measures = table_rows(summary["verify_iter"], results[start])
    decoding = measures[0][1]
    titles = {name: suite["title"] for name, suite in summary["suites"].items()}
    if len(labels) == 1:
        first = f"{start}: first replies that are right ({decoding}), with 95 % intervals."
        clauses = {
            name: f"{title} {format_interval(_measured(summary, start, decoding, name))} %"
            for name, title in titles.items()
        }
    else:
        differences = summary["differences"][end]
        moves: dict[int, list[str]] = {1: [], -1: [], 0: []}
        for name, title in titles.items():
            moves[_clear_sign(_interval(differences[decoding][name]["first_reply"]))].append(title)
        words = {1: "rose", -1: "fell", 0: "did not change clearly"}
        said = [f"{words[sign]} on {_listed(where)}" for sign, where in moves.items() if where]
        first = (
            f"From {start} to {end}, the share of first replies that are right ({decoding}) "
            f"{'; '.join(said)}."
        )
        clauses = {
            name: f"{title} {100 * _measured(summary, start, decoding, name).value:.1f} "
            f"\N{RIGHTWARDS ARROW} {100 * _measured(summary, end, decoding, name).value:.1f} %, "
            + _change(differences, measures, name)
            for name, title in titles.items()
        }
    sentences = [first]
    for shift, heading in SHIFTS.items():
        of_shift = [clauses[n] for n, suite in summary["suites"].items() if suite["shift"] == shift]
        if of_shift:
            sentences.append(f"{heading}: {'; '.join(of_shift)}.")
    return sentences


def _measured(summary: dict[str, Any], label: str, decoding: str, suite: str) -> Interval:
    return _interval(summary["checkpoints"][label][decoding][suite]["metrics"]["first_reply"])


def _change(differences: dict[str, Any], measures: list[tuple[str, str, str]], suite: str) -> str:
    """`+1.4 [-1.0, +4.0], not clear of zero`, of the first measure of the table, and the others
    that moved clearly where it did not, or the other way.
    """
    found = [
        (heading, _interval(differences[decoding][suite][metric]))
        for heading, decoding, metric in measures
    ]
    change = found[0][1]
    otherwise = [
        f"{heading}: {format_interval(other, '+')}"
        for heading, other in found[1:]
        if _clear_sign(other) not in (0, _clear_sign(change))
    ]
    return (
        f"{format_interval(change, '+')}, {'' if _clear_sign(change) else 'not '}clear of zero"
        + (f" (but clearly {'; '.join(otherwise)})" if otherwise else "")
    )


def _interval(data: dict[str, float | None]) -> Interval:
    return Interval(**{key: np.nan if value is None else value for key, value in data.items()})


def _clear_sign(difference: Interval) -> int:
    """1 or -1 for a difference whose interval lies above or below zero, else 0."""
    return int(difference.low > 0) - int(difference.high < 0)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def run_report(run: str | Path, task: str | None = None, per_suite: int = 6) -> Report:
    """The report of a directory that report.write left, with its learning curves, if any, drawn
    into it (learning.png).

    Raises InputError for a directory without results, a task with other suites, and an environment
    that cannot be made; OSError where the directory cannot be written.
    """
    files, run = RunDir(run), Path(run)
    summary, results = read_results(run)
    settings = files.settings()
    task = task or settings.get("task")
    if task is None:
        raise InputError(f"run {run}: its config.yaml names no task: name one with --task")
    env = settings.get("env") or {}
    changed = {} if "id" in env else env.get("kwargs") or {}  # "id": that of a training
    suites = [
        suite
        for suite in with_options(load_task(task).suites, changed)
        if suite.name in summary["suites"]
    ]
    if not suites:
        raise InputError(f"task {task}: has none of the suites of run {run}")
    figures = []
    if files.success_figure.is_file():
        figures.append(
            Figure("Success by suite, with 95 % intervals over puzzles", files.success_figure)
        )
    metrics = files.read_metrics()
    if plot_learning(files.learning_figure, metrics):
        figures.append(Figure("Training, update by update", files.learning_figure))
    return Report(
        title=f"{task}: {run.resolve().name}",
        claims=claims(summary, results),
        notes=_notes(summary, settings, metrics),
        tables=_tables(summary, results),
        figures=figures,
        dialogues=compare(
            results, suites, summary["verify_iter"], settings.get("prompt_file"), per_suite
        ),
    )


def _notes(
    summary: dict[str, Any], settings: dict[str, Any], metrics: Sequence[dict[str, Any]]
) -> list[str]:
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


def _tables(summary: dict[str, Any], results: Results) -> list[Table]:
    """The blocks of table.txt, and how many episodes were won before, after, by both, by none."""
    labels = list(summary["checkpoints"])
    pairs = [(label, f"{label} - {labels[0]}") for label in labels[1:]]
    if len(pairs) == 1:
        pairs = [(labels[1], "difference")]
    tables = []
    for heading, decoding, metric in table_rows(summary["verify_iter"], results[labels[0]]):
        rows = []
        for name, suite in summary["suites"].items():
            row = [suite["title"]]
            for label in labels:
                of_suite = summary["checkpoints"][label][decoding][name]
                row.append(format_interval(_interval(of_suite["metrics"][metric])))
            for label, _ in pairs:
                found = _interval(summary["differences"][label][decoding][name][metric])
                row.append(format_interval(found, "+") + (CLEAR if _clear_sign(found) else ""))
            rows.append(row)
        caption = f"Success, % [95 % interval]: {heading}"
        tables.append(Table(caption, ["suite", *labels, *(title for _, title in pairs)], rows))
    for heading, decoding in reply_blocks(results):
        rows = [
            [suite["title"], *(str(count_replies(results[x][decoding][name])) for x in labels)]
            for name, suite in summary["suites"].items()
        ]
        tables.append(Table(heading[0].upper() + heading[1:], ["suite", *labels], rows))
    if not pairs:
        return tables
    first, last = results[labels[0]], results[labels[-1]]
    for decoding in first:
        rows = []
        for name, suite in summary["suites"].items():
            won = [
                (before.is_success, after.is_success)
                for before, after in zip(first[decoding][name], last[decoding][name], strict=True)
            ]
            kinds = ((False, True), (True, False), (True, True), (False, False))
            rows.append([suite["title"], *(str(won.count(kind)) for kind in kinds)])
        columns = ["suite", f"by {labels[-1]} only", f"by {labels[0]} only", "by both", "by none"]
        tables.append(Table(f"Episodes won, {decoding}", columns, rows))
    return tables


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
    """Write the report of a run that has just ended. A page that cannot be written is said in a
    line, and is no failure of the run.
    """
    try:
        print(f"Report: {write_run_report(run_dir)}")
    except (InputError, OSError) as error:
        print(f"No report.html: {error}")


def main(config: Config) -> None:
    """The command."""
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
    run_command(main, Config)
