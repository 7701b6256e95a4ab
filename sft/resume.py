"""Going on with an interrupted fine-tuning: what Trainer keeps for it, and which of it is whole.

While a run is not finished, its directory holds `trainer/`: there the optimizer, the schedule and
the random streams after the newest saved step, as transformers.Trainer writes them; the weights are
those of the checkpoint of that step. `newest.json`, written last, names the step.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from gym_dialogue import InputError
from gym_dialogue.resume import check_same_run, cut_logs, write_atomically
from gym_policy.load import checkpoint_dir, drop_checkpoints_after
from gym_policy.zero import with_deepspeed

_STATE = "trainer"
_NEWEST = "newest.json"
# What may differ when a run goes on: it changes how the run is carried out, not what is learned.
_MAY_CHANGE = {
    "resume",
    "run_dir",
    "microbatch_size",
    "gradient_checkpointing",
    "save_every",
    "trust_remote_code",
}


@dataclass(frozen=True)
class Saved:
    """Where a run goes on from: its newest saved step, the weights (a checkpoint) and the rest of
    the training state (a directory of Trainer's) after it. Without a state it is finished.
    """

    step: int
    checkpoint: Path
    state: Path | None


def state_dir(run_dir: str | Path) -> Path:
    """Where Trainer keeps its state for as long as the run is not finished."""
    return Path(run_dir) / _STATE


def mark_whole(run_dir: str | Path, step: int) -> None:
    """Say that the state after a step is whole, and remove the one before. For rank 0, when every
    rank has written its part.
    """
    directory = state_dir(run_dir)
    write_atomically(directory / _NEWEST, json.dumps({"step": step} | _launch()))
    for other in directory.glob("checkpoint-*"):
        if other.name != f"checkpoint-{step}":
            shutil.rmtree(other, ignore_errors=True)


def resume_from(config: Any) -> Saved | None:
    """Where to go on; None for a run that has saved nothing to go on from and starts anew, with
    what it had left removed. For rank 0.

    Raises InputError for a run with other settings or on another number of processes, and where
    what it saved is not there any more.
    """
    if not check_same_run(config, _MAY_CHANGE):
        return None
    run_dir = Path(config.run_dir)
    checkpoints = run_dir / "checkpoints"
    if not state_dir(run_dir).exists() and checkpoints.exists():
        last = checkpoint_dir(run_dir, config.num_steps)
        if last.is_dir():
            return Saved(config.num_steps, last, None)
        raise InputError(
            f"resume: the run in {run_dir} has left no training state to go on from; start another"
        )
    newest = state_dir(run_dir) / _NEWEST
    if not newest.is_file():
        for file in ("config.yaml", "metrics.jsonl"):
            (run_dir / file).unlink(missing_ok=True)
        shutil.rmtree(checkpoints, ignore_errors=True)
        return None
    try:
        found = json.loads(newest.read_text())
        step, launch = found["step"], {key: found[key] for key in _launch()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"resume: {newest} cannot be read: {error}") from error
    if launch != _launch():
        told = [
            f"{by['processes']} processes"
            + (f" under ZeRO-{by['zero_stage']}" if by["zero_stage"] else "")
            for by in (launch, _launch())
        ]
        raise InputError(f"resume: the run in {run_dir} was on {told[0]}, this is on {told[1]}")
    saved = Saved(step, checkpoint_dir(run_dir, step), state_dir(run_dir) / f"checkpoint-{step}")
    for directory in (saved.checkpoint, saved.state):
        if not directory.is_dir():
            raise InputError(f"resume: {directory} is missing; start another run")
    cut_logs(run_dir, step)
    drop_checkpoints_after(run_dir, step)
    return saved


def _launch() -> dict[str, Any]:
    """What the state of a run depends on in how it was started."""
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") if with_deepspeed() else None
    return {"processes": PartialState().num_processes, "zero_stage": stage}
