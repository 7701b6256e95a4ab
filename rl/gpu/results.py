"""What the parts have measured: one JSON record a line, and the table made of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from gym_command.files import append_json


@dataclass(frozen=True)
class Row:
    """One measurement, in words that hold its unit; and the target, if there is one."""

    part: str
    what: str
    measured: str
    aim: str = ""

    def __str__(self) -> str:
        return f"| {self.part} | {self.what} | {self.measured} | {self.aim} |"


class Results:
    """The measurements of a run so far, in results.jsonl of its directory."""

    def __init__(self, run_dir: str | Path):
        self.file = Path(run_dir) / "results.jsonl"

    def add(self, row: Row) -> None:
        """Write a row. Raises InputError if the disk does not take it."""
        append_json(self.file, asdict(row))

    def rows(self) -> list[Row]:
        """Return all whole rows."""
        if not self.file.is_file():
            return []
        lines = self.file.read_text(encoding="utf-8").splitlines(keepends=True)
        return [Row(**json.loads(line)) for line in lines if line.endswith("\n")]

    def table(self) -> str:
        """Return the rows as a Markdown table."""
        head = ["| part | measured | result | aim |", "|---|---|---|---|"]
        return "\n".join([*head, *map(str, self.rows())]) + "\n"
