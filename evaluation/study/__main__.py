"""The study: the command behind scripts/study.sh."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.page import Figure, Report, Table, write_report
from evaluation.replay import compare
from evaluation.study.analysis import Study, read_study
from evaluation.study.config import ArmConfig, StudyConfig, check_config, study_file
from evaluation.study.figures import draw
from evaluation.study.results import results
from evaluation.study.run import places, run_study
from evaluation.study.text import claims, format_table, start_tables, table_columns, table_rows
from evaluation.suites import load_task
from gym_command.command import parse_config, run_command
from gym_command.files import write_atomically
from gym_command.run_dir import RunDir
from gym_dialogue import InputError

_MAY_CHANGE = ("arms", "only", "list_jobs", "analyse", "processes", "seeds", "run_dir")


def main(config: StudyConfig) -> None:
    """Run what is to be run, and analyse what there is."""
    check_config(config)
    suites = [suite.name for suite in load_task(config.suites or config.task).suites]
    if config.primary and config.primary not in suites:
        raise InputError(f"primary={config.primary}: must be one of {', '.join(suites)}")
    study = Path(config.run_dir or directory_of(config))
    if config.list_jobs:
        print("\n".join(place.name for place in places(config, study)))
        return
    _begin(config, study)
    if not config.analyse:
        run_study(config, study)
    analyse(config, study)


def directory_of(config: StudyConfig) -> str:
    """Return where a study goes if nothing else is said."""
    return f"runs/study-{config.task}-{config.scale}"


def analyse(config: StudyConfig, directory: Path) -> None:
    """Write results.json, table.txt, figures and report.html, and print table and claims."""
    study = read_study(config, directory)
    data = results(study)
    write_atomically(directory / "results.json", json.dumps(data, indent=1) + "\n")
    sentences = claims(study, data)
    if study.arms:
        table = format_table(study, data)
        write_atomically(RunDir(directory).table_file, table + "\n")
        print(f"\n{table}")
        figures = draw(study, data, directory / "figures")
        write_report(RunDir(directory).report_file, _report(study, data, sentences, figures))
    print("\n" + "\n".join(sentences))
    print(f"\nResults are in {directory}: results.json, table.txt, figures/, report.html")


def _report(
    study: Study, data: dict, sentences: list[str], figures: list[tuple[str, Path]]
) -> Report:
    """Return the study as a page; its dialogues are those of the first seed, before and after."""
    config = study.config
    columns = table_columns(study)
    tables = [Table(*table) for table in start_tables(study, data)]
    tables += [Table(heading, columns, rows) for heading, rows in table_rows(study, data)]
    first = study.arms[0].rows[0][0]
    shown = {"start": first.measured.records}
    shown |= {arm.title: arm.rows[0][-1].measured.records for arm in study.arms}
    return Report(
        title=f"SFT against RL at equal compute: {config.task}, scale {config.scale}",
        claims=sentences,
        notes=[
            "Means over seeds, each with its own initial checkpoint; 95 % intervals by t over "
            "seeds with the puzzles, which seeds share, counted once (one seed: by bootstrap over "
            "puzzles); changes are paired on the same seeded episodes.",
            "Episodes a suite: initial and last checkpoints "
            f"{config.end_episodes or config.eval.episodes}, those between them "
            f"{config.eval.episodes}.",
            "Compute: 6 N D for tokens learned, 2 N D for tokens sampled (arXiv 2501.17161).",
        ],
        tables=tables,
        figures=[Figure(caption, file) for caption, file in figures],
        dialogues=compare(shown, study.suites, first.measured.verify_iter, None),
    )


def _begin(config: StudyConfig, study: Path) -> None:
    """Make the study's directory, or see that it is that of the same study; arms and seeds may be
    added to it.
    """
    settings = RunDir(study).readable_settings()
    if not settings:
        RunDir(study).start(config)
        return
    begun = {path.name for path in study.glob("seed*/*")}
    # A study that was begun before there was a setting has had what that is by default.
    defaults = asdict(StudyConfig())
    evaluation = defaults["eval"] | (settings.get("eval") or {})
    of_an_arm = asdict(ArmConfig("", "sft", ""))
    arms = [of_an_arm | arm for arm in settings.get("known_arms") or []]
    filled = defaults | settings | {"eval": evaluation, "known_arms": arms}
    before = _settings(filled, begun)
    now = _settings(asdict(config), begun)
    for key in before.keys() & now.keys():
        if before[key] != now[key]:
            raise InputError(
                f"{key}={now[key]}, but the study in {study} has {before[key]}: leave its settings "
                "as they are, or name another --run_dir; --analyse shows the study as it is"
            )
    RunDir(study).write_config(config)


def _settings(config: dict[str, Any], begun: set[str]) -> dict[str, Any]:
    """Return what a study may not change, by name; each arm that has begun by its own."""
    arms = {f"arm {arm['name']}": arm for arm in config["known_arms"] if arm["name"] in begun}
    return arms | {k: v for k, v in config.items() if k not in (*_MAY_CHANGE, "known_arms")}


def main_with_file(config: StudyConfig) -> None:
    """Run `main` with the settings of the study's file under those of the flags; a file of one's
    own, by --config, takes its place.
    """
    if not config.known_arms:
        own = RunDir(config.run_dir or directory_of(config)).config_file
        is_there = config.analyse and own.is_file()
        file = own if is_there else study_file(config.task, config.scale)
        config = parse_config(StudyConfig, [f"--config={file}", *sys.argv[1:]])
    main(config)


if __name__ == "__main__":
    run_command(main_with_file, StudyConfig)
