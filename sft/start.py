"""Makes the tiny start checkpoint: the embedded stand-in for a pretrained model after a light SFT.

A Llama of about a million parameters learns from scratch to play a task, under its usual rule and
under others, but not well: that is left to what is studied. The result is kept in a cache, under a
name made of its whole recipe, so that only the first run pays for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import PartialState

from gym_dialogue.command import run_command
from gym_policy.load import saved_checkpoints
from sft.tiny import build_model, build_tokenizer
from sft.train import Config as TrainConfig
from sft.train import check_config, fit, prepare_run

_RECIPE = 1  # raised when the code of this recipe changes what it makes


@dataclass
class Config(TrainConfig):
    """Make a tiny start checkpoint, unless the cache has it; prints its directory."""

    cache: str = ".cache/start"
    """Directory of the cache."""


def make_start(config: Config) -> Path:
    """The directory of the start checkpoint, made now if it is not in the cache."""
    config.model = "tiny"
    check_config(config)
    state = PartialState(cpu=not torch.cuda.is_available())
    recipe = {k: v for k, v in asdict(config).items() if k not in ("cache", "run_dir")}
    text = json.dumps([_RECIPE, state.num_processes, recipe], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    final = Path(config.cache) / f"{config.task}-seed{config.seed}-{digest}"
    if (final / "config.json").is_file():
        return final
    work = final.with_name(final.name + ".partial")
    if state.is_main_process:
        shutil.rmtree(work, ignore_errors=True)
    state.wait_for_everyone()
    config.run_dir = str(work)
    dialogues = prepare_run(config)
    tokenizer = build_tokenizer(message.text for messages in dialogues for message in messages)
    model = build_model(len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id, config.seed)
    fit(model, tokenizer, dialogues, config, work)
    if state.is_main_process:
        os.replace(saved_checkpoints(str(work))[-1], final)
        shutil.rmtree(work)
    state.wait_for_everyone()
    return final


def main(config: Config) -> None:
    """The command: prints the checkpoint's directory on standard output, all else on error."""
    with contextlib.redirect_stdout(sys.stderr):
        final = make_start(config)
    if PartialState().is_main_process:
        print(final)
    PartialState().destroy_process_group()


if __name__ == "__main__":
    run_command(main, Config)
