"""Put the results of studies into the project's pages.

    python -m evaluation.study.publish RUN_DIR ...

keeps each study's results.json in evaluation/results/ and its figures in assets/, and writes anew
the tables between `<!-- results: STUDY TABLE -->` and `<!-- end of results -->` in RESULTS.md and
README.md. Without a RUN_DIR it writes them from what is kept.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.study.markdown import BLOCKS, claim_table
from gym_command.command import run_command
from gym_command.files import write_atomically
from gym_dialogue import InputError
from gym_dialogue.checks import read_json

KEPT = Path("evaluation/results")
PAGES = (Path("evaluation/RESULTS.md"), Path("README.md"))
_ASSETS = Path("assets")
_FIGURES = ("frontier", "forest", "failures")
_BLOCK = re.compile(
    r"(?P<open><!-- results: (?P<study>\S+)(?: (?P<table>\S+))? -->\n).*?(?P<close><!-- end of "
    r"results -->)",
    re.DOTALL,
)


@dataclass
class PublishConfig:
    """Put the results of studies into the project's pages."""

    runs: list[str] = field(default_factory=list)
    """Directories of finished studies. None: the pages are written from what is kept."""


def main(config: PublishConfig) -> None:
    """Keep what is new, and write the tables of every page. Raises InputError."""
    for run in config.runs:
        _keep(Path(run))
    studies = kept_studies(KEPT)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        write_atomically(page, with_tables(text, studies, str(page)))
        print(f"{page}: {len(_BLOCK.findall(text))} tables")


def kept_studies(directory: Path) -> dict[str, Any]:
    """Return the results that are kept, by the name of the study (TASK_SCALE)."""
    return {file.stem: read_json(file, str(file)) for file in sorted(directory.glob("*.json"))}


def with_tables(text: str, studies: Mapping[str, Any], where: str) -> str:
    """Return a page with its tables written from results. `claims` in place of a study stands for
    the table of all. Raises InputError for a table of a study or kind that there is not.
    """

    def written(block: re.Match[str]) -> str:
        study, name = block["study"], block["table"]
        if study == "claims":
            shown = claim_table(studies)
        elif study not in studies or name not in BLOCKS:
            raise InputError(
                f"{where}: results: {study} {name}: the study must be one of "
                f"{', '.join(studies) or 'none yet'}, the table one of {', '.join(BLOCKS)}"
            )
        else:
            shown = BLOCKS[name](studies[study])
        return f"{block['open']}{shown}\n{block['close']}"

    return _BLOCK.sub(written, text)


def _keep(run: Path) -> None:
    file = run / "results.json"
    data = read_json(file, str(file))
    if not isinstance(data, dict) or not data.get("finished"):
        raise InputError(f"{file}: is not of a finished study: run it to its end first")
    name = f"{data['task']}_{data['scale']}"
    write_atomically(KEPT / f"{name}.json", json.dumps(data, indent=1) + "\n")
    for figure in _FIGURES:
        drawn = run / "figures" / f"{figure}.png"
        if drawn.is_file():
            shutil.copyfile(drawn, _ASSETS / f"study_{name}_{figure}.png")


if __name__ == "__main__":
    run_command(main, PublishConfig)
