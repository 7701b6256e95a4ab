"""Resuming an interrupted run: from which of its checkpoints."""

from __future__ import annotations

import sys
from pathlib import Path

from gym_command.run_dir import RunDir
from gym_dialogue import InputError
from rl.checkpoint import newest_whole
from rl.config import RLConfig

# What may differ when a run resumes: it changes how the run is carried out, not what is learned.
_MAY_CHANGE = {
    "resume",
    "run_dir",
    "num_envs",
    "sampling_batch",
    "microbatch_size",
    "gradient_checkpointing",
    "save_every",
    "keep_last",
    "keep_states",
    "best_by",
    "log_dialogues",
    "trackers",
    "trust_remote_code",
    "engines",
}


def resume_from(config: RLConfig) -> Path | None:
    """Return the checkpoint to resume from; None where there is none and the run starts anew. For
    one rank: it reads every file of the checkpoint.

    Raises InputError for a directory that cannot be read, a run with other settings, and one in
    which no checkpoint is whole.
    """
    run_dir = RunDir(config.run_dir)
    if not run_dir.holds_run_of(config, _MAY_CHANGE):
        return None
    checkpoint, warnings = newest_whole(run_dir.path)
    for line in warnings:
        print(f"warning: {line}", file=sys.stderr)
    if checkpoint is None and warnings:
        raise InputError(f"run directory {run_dir}: none of its checkpoints is whole")
    if checkpoint is None:  # ended before its first checkpoint: the run starts anew
        run_dir.clear()
    return checkpoint
