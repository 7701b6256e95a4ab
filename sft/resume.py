"""Going on with an interrupted fine-tuning: what Trainer keeps for it, and which of it is whole.

While a run is not finished, its newest checkpoints have in `training/` the optimizer, the schedule
and the random streams, as transformers.Trainer writes them, and in training_state.json the step and
how the run was spread. A checkpoint is whole, or is not there (`gym_policy.training.checkpoint`).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from gym_command.checkpoints import TRAINING_DIR, training_file, update_of
from gym_command.run_dir import RunDir
from gym_dialogue import InputError
from gym_dialogue.checks import is_integer, read_json
from gym_policy.distributed import with_deepspeed
from gym_policy.training.checkpoint import damage, listed, newest_whole, take_out

STATE_FILE = "training_state.json"
_STATES_KEPT = 2  # one to go back to, if the newest is damaged
_EARLIER = "trainer"  # where versions before kept the state, that of the newest checkpoint alone
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


def write_state(directory: Path, step: int) -> None:
    """Say in a checkpoint that is being written of which step its training state is."""
    training_file(directory, STATE_FILE).write_text(json.dumps({"step": step} | _launch()) + "\n")


def remove_states(run_dir: Path, keep: int = _STATES_KEPT) -> None:
    """Remove the training state of all checkpoints but the newest `keep`."""
    shutil.rmtree(run_dir / _EARLIER, ignore_errors=True)
    checkpoints = RunDir(run_dir).saved_checkpoints()
    for path in checkpoints[: max(0, len(checkpoints) - keep)]:
        state = path / TRAINING_DIR
        files = {f.relative_to(path).as_posix() for f in state.rglob("*") if f.is_file()}
        take_out(path, files)
        shutil.rmtree(state, ignore_errors=True)


def resume_from(config: Any) -> Saved | None:
    """Return where to go on; None for a run that has saved nothing to go on from and starts anew,
    with what it had left removed. For rank 0.

    Raises InputError for a run with other settings or on another number of processes, and where
    nothing that it saved is whole.
    """
    files = RunDir(config.run_dir)
    if not files.holds_run_of(config, _MAY_CHANGE):
        return None
    run_dir = files.path
    if (run_dir / _EARLIER).exists():
        return _saved_earlier(run_dir)
    last = files.checkpoint(config.num_steps)
    is_finished = last in files.saved_checkpoints()
    checkpoint, warnings = newest_whole(run_dir, lambda path: _fault(path, config.num_steps))
    for line in warnings if is_finished or _has_states(run_dir) else ():
        print(f"warning: {line}", file=sys.stderr)
    if checkpoint is not None and checkpoint == last:
        remove_states(run_dir, keep=0)
        return Saved(config.num_steps, last, None)
    if checkpoint is not None:
        step = update_of(checkpoint)
        assert step is not None  # checkpoints are found by their numbers
        _check_launch(
            run_dir, read_json(training_file(checkpoint, STATE_FILE), f"resume: {checkpoint}")
        )
        files.cut_after(step)
        return Saved(step, checkpoint, checkpoint / TRAINING_DIR)
    if any(files.saved_updates()):
        raise InputError(
            f"resume: the run in {run_dir} has left no training state to go on from that is "
            "whole; start another"
        )
    files.clear()
    return None


def _has_states(run_dir: Path) -> bool:
    return any((path / TRAINING_DIR).exists() for path in RunDir(run_dir).saved_checkpoints())


def _fault(path: Path, last_step: int) -> str | None:
    """Return what keeps a run from going on from a checkpoint, or from being finished with it; None
    if nothing does.
    """
    try:
        sums = listed(path)
    except FileNotFoundError:  # of a version before
        return None if update_of(path) == last_step else "has no training state"
    except (OSError, ValueError):
        return damage(path)
    if update_of(path) != last_step and f"{TRAINING_DIR}/{STATE_FILE}" not in sums:
        return "has no training state"
    return damage(path)


def _saved_earlier(run_dir: Path) -> Saved:
    """Return where a run goes on that a version before has begun."""
    state = run_dir / _EARLIER
    newest = read_json(state / "newest.json", f"resume: {state / 'newest.json'}")
    step = _check_launch(run_dir, newest)
    checkpoint, states = RunDir(run_dir).checkpoint(step), state / f"checkpoint-{step}"
    for directory in (checkpoint, states):
        if not directory.is_dir():
            raise InputError(f"resume: {directory} is missing; start another run")
    RunDir(run_dir).cut_after(step)
    return Saved(step, checkpoint, states)


def _check_launch(run_dir: Path, state: Any) -> int:
    """Return the step that a state says it is of. Raises InputError where the run was spread
    otherwise.
    """
    if not isinstance(state, dict) or not is_integer(state.get("step")):
        raise InputError(f"resume: the training state of {run_dir} names no step")
    launch = {key: state.get(key) for key in _launch()}
    if launch != _launch():
        told = [
            f"{by['processes']} processes"
            + (f" under ZeRO-{by['zero_stage']}" if by["zero_stage"] else "")
            for by in (launch, _launch())
        ]
        raise InputError(f"resume: the run in {run_dir} was on {told[0]}, this is on {told[1]}")
    return state["step"]


def _launch() -> dict[str, Any]:
    """Return what the state of a run depends on in how it was started."""
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") if with_deepspeed() else None
    return {"processes": PartialState().num_processes, "zero_stage": stage}
