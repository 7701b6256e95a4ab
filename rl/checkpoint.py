"""Checkpoints of a run: directories that from_pretrained and every command here can read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from accelerate import Accelerator
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from gym_dialogue import InputError
from rl.actor_critic import ActorCritic


def checkpoint_dir(run_dir: str | Path, update: int) -> Path:
    """Where the checkpoint after an update (0: the start) lies."""
    return Path(run_dir) / "checkpoints" / f"update-{update:06d}"


def save_checkpoint(
    run_dir: str | Path,
    update: int,
    accelerator: Accelerator,
    actor_critic: ActorCritic,
    tokenizer: PreTrainedTokenizerBase,
) -> Path:
    """Write model, tokenizer and value head, under another name first: a checkpoint that can be
    seen is whole. Raises InputError if the disk does not take it.
    """
    final = checkpoint_dir(run_dir, update)
    if accelerator.is_main_process:
        inner = accelerator.unwrap_model(actor_critic)
        partial = final.with_name(f"{final.name}.partial")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            inner.model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            inner.save_value_head(partial)
            if final.exists():
                shutil.rmtree(final)
            os.replace(partial, final)
        except OSError as error:
            raise InputError(
                f"checkpoint {final}: cannot be written: {error.strerror or error}; free some "
                "space or name another --run_dir"
            ) from error
    accelerator.wait_for_everyone()
    return final
