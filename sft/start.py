"""Makes a start checkpoint: a model after a light SFT, which plays a task, but not well.

At tiny scale a Llama of about a million parameters, the embedded stand-in for a pretrained model,
learns from scratch, under the task's usual rule and under others; at small scale a pretrained model
is fine-tuned. To play well is left to what is studied. The result is kept in a cache, under a name
made of its whole recipe, so that only the first run pays for it.
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
from typing import Any

import numpy as np
from accelerate import PartialState
from transformers import TrainerCallback

from gym_dialogue import Task, rollout
from gym_dialogue.command import EnvConfig, append_json, make_envs, run_command, with_prompt_file
from gym_policy import ModelPolicy, Renderer, load_tokenizer
from gym_policy.load import saved_checkpoints
from gym_policy.zero import join_processes
from sft.tiny import build_model, build_tokenizer
from sft.train import Config as TrainConfig
from sft.train import check_config, fit, load_start, prepare_run

_PROBE_STREAM = 0x920B
_RECIPE = 1  # raised when the code of this recipe changes what it makes


@dataclass
class Config(TrainConfig):
    """Make a start checkpoint, unless the cache has it; prints its directory.

    Without a `model` to start from, a tiny one is made from scratch.
    """

    cache: str = ".cache/start"
    """Directory of the cache."""
    stop_at: float = 1.0
    """Training stops early once this share of first replies, sampled at temperature 1, is right on
    hands of the first source. How fast a model gets there differs from seed to seed."""
    probe_every: int = 20
    """Steps between looks at that share."""
    probe_episodes: int = 256
    """Hands that each look plays."""
    max_new_tokens: int = 24
    """Tokens that a reply may have in it."""


class _StopAtSuccess(TrainerCallback):
    """Ends training at a success rate. Every rank plays the same hands with the same weights, so
    all of them stop together.
    """

    def __init__(self, config: Config, policy: ModelPolicy):
        self.config, self.policy = config, policy
        source = with_prompt_file(config.sources[0].env, config.prompt_file)
        single = EnvConfig(source.id, source.kwargs | {"verify_iter": 1})
        self.envs = make_envs(single, config.probe_episodes)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        if step % self.config.probe_every:
            return
        seeds = np.random.SeedSequence([self.config.seed, _PROBE_STREAM, step])
        tasks = [
            Task(int(seed), (_PROBE_STREAM, self.config.seed, step, i))
            for i, seed in enumerate(seeds.generate_state(self.config.probe_episodes))
        ]
        episodes = rollout(self.envs, self.policy, tasks)
        success = sum(episode.is_success for episode in episodes) / len(episodes)
        if state.is_world_process_zero:
            append_json(
                Path(self.config.run_dir) / "metrics.jsonl", {"update": step, "success": success}
            )
            print(f"step {step}: {100 * success:.0f} % of first replies right")
        if success >= self.config.stop_at:
            control.should_training_stop = True
            control.should_evaluate = self.config.validation > 0


def make_start(config: Config) -> Path:
    """The directory of the start checkpoint, made now if it is not in the cache."""
    config.model = config.model or "tiny"
    pretrained = None if config.model == "tiny" else saved_checkpoints(config.model)[-1]
    check_config(config)
    state = join_processes()
    text = json.dumps([_RECIPE, state.num_processes, _recipe(config)], sort_keys=True)
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
    if pretrained is not None:
        tokenizer, model = load_tokenizer(pretrained), load_start(config, pretrained)
    else:
        texts = (message.text for messages in dialogues for message in messages)
        tokenizer = build_tokenizer(texts)
        special = tokenizer.pad_token_id, tokenizer.eos_token_id
        model = build_model(len(tokenizer), *special, config.seed)
    policy = ModelPolicy(model, Renderer(tokenizer), max_new_tokens=config.max_new_tokens)
    fit(model, tokenizer, dialogues, config, work, [_StopAtSuccess(config, policy)])
    if state.is_main_process:
        model.save_pretrained(work / "final")
        tokenizer.save_pretrained(work / "final")
        shutil.copy(work / "metrics.jsonl", work / "final")
        shutil.copy(work / "config.yaml", work / "final")
        os.replace(work / "final", final)
        shutil.rmtree(work)
    state.wait_for_everyone()
    return final


def _recipe(config: Config) -> dict[str, Any]:
    """All that decides what is made: every setting, and what is in the files that they name."""
    recipe = {k: v for k, v in asdict(config).items() if k not in ("cache", "run_dir")}
    for name in ("data_file", "prompt_file"):
        if recipe[name] is not None:
            recipe[name] = hashlib.sha256(Path(recipe[name]).read_bytes()).hexdigest()
    # Settings that came later and are not used leave the name of a recipe as it was.
    later = ("validation", "prompt_file", "gradient_checkpointing")
    return {k: v for k, v in recipe.items() if v or k not in later}


def main(config: Config) -> None:
    """The command: prints the checkpoint's directory on standard output, all else on error."""
    with contextlib.redirect_stdout(sys.stderr):
        final = make_start(config)
    if PartialState().is_main_process:
        print(final)
    PartialState().destroy_process_group()


if __name__ == "__main__":
    run_command(main, Config)
