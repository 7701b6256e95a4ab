"""Where things lie in a study's directory, and how what was measured is read again.

STUDY/config.yaml, steps.jsonl (what ran, and how long), results.json, figures/, report.html
STUDY/seed0/start/start.json    where the initial checkpoint of the seed is
STUDY/seed0/ARM/run/            the run of an arm, with its checkpoints; log.txt: what it printed
STUDY/seed0/ARM/measured/       what each checkpoint was measured to do (ARM start: the initial one)
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.records import Records, records_from_json, records_to_json
from gym_command.checkpoints import update_name
from gym_command.files import atomic_file
from gym_command.run_dir import RunDir
from gym_dialogue import InputError

START = "start"
"""The arm that trains nothing: the initial checkpoint itself."""


@dataclass(frozen=True)
class Place:
    """The part of a study that one arm has under one seed."""

    study: Path
    seed: int
    arm: str

    @property
    def name(self) -> str:
        """Return the name of the job: seed0/rl."""
        return f"seed{self.seed}/{self.arm}"

    @property
    def directory(self) -> Path:
        return self.study / self.name

    @property
    def run(self) -> Path:
        return self.directory / "run"

    @property
    def log(self) -> Path:
        return self.directory / "log.txt"

    def measured(self, update: int) -> Path:
        """Return the file of what a checkpoint was measured to do; 0 is the initial one (an arm
        that starts from another has that, others share the seed's).
        """
        return self.directory / "measured" / f"{update_name(update)}.json.gz"

    @property
    def updates(self) -> list[int]:
        """Return the updates of the run's checkpoints, without the initial one."""
        return [update for update in RunDir(self.run).saved_updates() if update > 0]


@dataclass
class Measured:
    """A checkpoint as it was evaluated: `records` by decoding and suite (evaluation.play), the
    replies an episode allowed, and the KL divergence from the initial checkpoint
    (evaluation.divergence).
    """

    records: Records
    verify_iter: int
    divergence: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return vars(self) | {"records": records_to_json(self.records)}

    @classmethod
    def from_json(cls, data: Any) -> Measured:
        """Read what `to_json` returned. Raises ValueError or TypeError for anything else."""
        return cls(**data | {"records": records_from_json(data["records"])})


def write_measured(file: Path, measured: Measured) -> None:
    """Write the file, whole or not at all."""
    with (
        atomic_file(file, "wb") as stream,
        gzip.open(stream, "wt", encoding="utf-8", compresslevel=5) as out,
    ):
        json.dump(measured.to_json(), out)


def read_measured(file: Path) -> Measured:
    """Read the file. Raises InputError for one that is damaged."""
    try:
        with gzip.open(file, "rt", encoding="utf-8") as text:
            return Measured.from_json(json.load(text))
    except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{file}: cannot be read ({error}); remove it, and run the study again"
        ) from error


def flops_by_update(run: str | Path) -> dict[int, float]:
    """Read the compute after each update of a run, in FLOPs, from its metrics.jsonl."""
    flops = {0: 0.0}
    for record in RunDir(run).read_metrics():
        if "flops" in record:
            flops[record["update"]] = record["flops"]
    return flops


def start_flops(start: str | Path) -> float | None:
    """Read the compute of making an initial checkpoint, 6 N D_init, where it says so."""
    return max(flops_by_update(start).values()) or None
