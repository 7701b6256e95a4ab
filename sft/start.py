"""Makes the tiny start checkpoint: the embedded stand-in for a pretrained model after a light SFT.

A Llama of about a million parameters learns from scratch to play a task, under its usual rule and
under others, but not well: that is left to what is studied. The result is kept in a cache, under a
name made of its whole recipe, so that only the first run pays for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from gym_dialogue.command import run_command, start_run
from gym_policy.load import saved_checkpoints
from sft.data import make_dialogues, read_dialogues, write_jsonl
from sft.tiny import build_model, build_tokenizer
from sft.train import Config as TrainConfig
from sft.train import check_config, fit

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
    recipe = {k: v for k, v in asdict(config).items() if k not in ("cache", "run_dir")}
    text = json.dumps([_RECIPE, recipe], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    final = Path(config.cache) / f"{config.task}-seed{config.seed}-{digest}"
    if (final / "config.json").is_file():
        return final
    work = final.with_name(final.name + ".partial")
    shutil.rmtree(work, ignore_errors=True)
    run_dir = start_run(work, config)
    write_jsonl(
        run_dir / "data.jsonl", make_dialogues(config.sources, config.num_dialogues, config.seed)
    )
    dialogues = list(read_dialogues(run_dir / "data.jsonl"))
    tokenizer = build_tokenizer(message.text for messages in dialogues for message in messages)
    model = build_model(len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id, config.seed)
    fit(model, tokenizer, dialogues, config, run_dir)
    os.replace(saved_checkpoints(str(run_dir))[-1], final)
    shutil.rmtree(work)
    return final


def main(config: Config) -> None:
    """The command: prints the checkpoint's directory on standard output, all else on error."""
    print(make_start(config))


if __name__ == "__main__":
    run_command(main, Config)
