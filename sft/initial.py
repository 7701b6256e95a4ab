"""Makes an initial checkpoint: a model after a light SFT, which plays a task, but not well.

At tiny scale a Llama of about a million parameters, the embedded stand-in for a pretrained model,
learns from scratch, under the task's usual rule and under others; at small scale a pretrained model
is fine-tuned. To play well is left to what is studied. The result is kept in a cache, under a name
made of its whole recipe, so that only the first run pays for it. A few that take long come with
the project, in assets/start, under a name of the same kind.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel, TrainerCallback

from gym_command.command import run_command
from gym_command.files import to_disk
from gym_command.lock import locked
from gym_command.ranges import Count, Length, NotNegative, Positive
from gym_command.run_dir import RunDir, saved_checkpoints
from gym_dialogue import Message, Task, Turn, rollout
from gym_dialogue.images import open_image
from gym_dialogue.make import EnvConfig, make_envs, with_prompt_file
from gym_policy import ModelPolicy, Renderer, load_model, load_renderer
from gym_policy.distributed import join_processes
from gym_policy.models.load import save_renderer
from gym_policy.training.checkpoint import writing
from sft.config import SFTConfig, check_config
from sft.fit import fit
from sft.prepare import load_initial, prepare_run
from sft.tiny import (
    INITIALIZER_RANGE,
    build_model,
    build_processor,
    build_tokenizer,
    build_vision_model,
)

_PROBE_STREAM = 0x920B
_RECIPE = 1  # raised when the code of this recipe changes what it makes
_DATA = 3  # the same of the dialogues, but what comes with the project was made from those before


@dataclass
class InitialConfig(SFTConfig):
    """Make an initial checkpoint, unless the cache has it; print its directory.

    Without a `model` to start from, a tiny one is made from scratch.
    """

    DATA_STREAM: ClassVar[tuple[int, ...]] = ()

    cache: str = ".cache/start"
    """Directory of the cache."""
    shipped: str = "assets/start"
    """Directory of those that come with the project."""
    ship: bool = False
    """Make it anew, and put it there too, in bfloat16, for others to find."""
    stop_at: NotNegative = 1.0
    """Training stops early once this share of first replies, sampled at temperature 1, is right on
    hands of the first source. How fast a model gets there differs from seed to seed."""
    stop_at_recognition: NotNegative = 0.0
    """With images, training goes on until this share of what is to be seen is read right too."""
    stop_at_kind: NotNegative = 0.0
    """Where positions are of several kinds, training goes on until this share is right in each."""
    stop_above: NotNegative = 1.0
    """Training stops at this share of first replies, whatever is read, to leave room above it."""
    probe_every: Count = 20
    """Steps between looks at that share."""
    probe_episodes: Length = 256
    """Hands that each look plays."""
    max_new_tokens: Length = 24
    """Tokens that a reply may have in it."""
    initializer_range: Positive = INITIALIZER_RANGE
    """Standard deviation of the initial weights of a model made from scratch. From 0.08 such a
    model learned to copy within 200 steps, from 0.02 not within 600."""


_FIRST_SETTINGS = frozenset(
    (
        *("adam_beta2", "batch_size", "data_file", "dtype", "lr", "lr_schedule", "max_grad_norm"),
        *("max_new_tokens", "model", "num_dialogues", "num_steps", "probe_episodes", "probe_every"),
        *("save_every", "seed", "sources", "stop_at", "task", "warmup", "weight_decay"),
    )
)
"""What every recipe's name is made of. Never add to it: the shipped checkpoints would be lost."""


class _StopAtSuccess(TrainerCallback):
    """Ends training at a rate of success, and of recognition with images. Every rank plays the same
    hands with the same weights, so all of them stop together.
    """

    def __init__(self, config: InitialConfig, policy: ModelPolicy):
        self.config, self.policy = config, policy
        source = with_prompt_file(config.sources[0].env, config.prompt_file)
        single = EnvConfig(source.id, source.kwargs | {"verify_iter": 1})
        self.envs = make_envs(single, config.probe_episodes)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step, config = state.global_step, self.config
        if step % config.probe_every:
            return
        turns = self._first_replies(step)
        success = _share([turn.is_right for turn in turns])
        recognized = [turn.recognized for turn in turns if turn.recognized is not None]
        by_kind = {
            kind: _share([turn.is_right for turn in turns if turn.kind == kind])
            for kind in sorted({turn.kind for turn in turns if turn.kind})
        }
        if state.is_world_process_zero:
            record = {"success": success}
            line = f"step {step}: {100 * success:.0f} % of first replies right"
            if recognized:
                record["recognition"] = _share(recognized)
                line += f", {100 * _share(recognized):.0f} % of what is to be seen read right"
            for kind, share in by_kind.items():
                record[f"success/{kind}"] = share
                line += f", {kind} {100 * share:.0f} %"
            RunDir(config.run_dir).append_metrics(step, record)
            print(line)
        sees = not recognized or _share(recognized) >= config.stop_at_recognition
        moves = min(by_kind.values(), default=1.0) >= config.stop_at_kind
        if (success >= config.stop_at and sees and moves) or success >= config.stop_above:
            control.should_training_stop = True
            control.should_log = True
            control.should_evaluate = config.validation > 0

    def _first_replies(self, step: int) -> list[Turn]:
        """Play the hands of a look."""
        seeds = np.random.SeedSequence([self.config.seed, _PROBE_STREAM, step])
        tasks = [
            Task(int(seed), (_PROBE_STREAM, self.config.seed, step, i))
            for i, seed in enumerate(seeds.generate_state(self.config.probe_episodes))
        ]
        episodes = rollout(self.envs, self.policy, tasks)
        return [turn for episode in episodes for turn in episode.turns]


def _share(verdicts: Sequence[bool]) -> float:
    return sum(verdicts) / len(verdicts)


def make_initial(config: InitialConfig) -> Path:
    """Return the directory of the initial checkpoint; make it if it is not in the cache."""
    config.model = config.model or "tiny"
    pretrained = None if config.model == "tiny" else saved_checkpoints(config.model)[-1]
    check_config(config)
    state = join_processes()
    is_main = state.is_main_process
    # The number of processes is part of what is made here; of what is shipped, it is in the past.
    final = Path(config.cache) / _name(config, state.num_processes, _DATA)
    shipped = Path(config.shipped) / _name(config)

    def existing() -> Path | None:  # as rank 0 sees it
        made = [next((p for p in (shipped, final) if (p / "config.json").is_file()), None)]
        return broadcast_object_list(made)[0]

    def on_wait() -> None:
        print(f"Waiting for another process, which makes {final}")

    if not config.ship and (path := existing()):
        return path
    # Of launchers that want the same checkpoint, one makes it, and the others wait and use it.
    with locked(final.with_name(f"{final.name}.lock"), on_wait) if is_main else nullcontext():
        if not config.ship and (path := existing()):
            return path
        return _make_initial(config, pretrained, state, final, shipped)


def _make_initial(
    config: InitialConfig, pretrained: str | None, state: PartialState, final: Path, shipped: Path
) -> Path:
    work = final.with_name(final.name + ".partial")
    if state.is_main_process:
        shutil.rmtree(work, ignore_errors=True)
    state.wait_for_everyone()
    config.run_dir = str(work)
    dialogues = prepare_run(config)
    if pretrained is not None:
        given = config.chat_template_kwargs, config.trust_remote_code
        renderer, model = load_renderer(pretrained, *given), load_initial(config, pretrained)
    else:
        renderer, model = _build(dialogues, config)
    policy = ModelPolicy(model, renderer, max_new_tokens=config.max_new_tokens)
    fit(model, renderer, dialogues, config, work, [_StopAtSuccess(config, policy)])
    if state.is_main_process:
        with writing(final):  # in `work`, which is what it calls the directory
            model.save_pretrained(work / "final")
            save_renderer(renderer, work / "final")
            for file in (RunDir(work).metrics_file, RunDir(work).config_file):
                shutil.copy(file, work / "final")
            for file in (work / "final").iterdir():
                to_disk(file)
            if config.ship:
                shutil.rmtree(shipped, ignore_errors=True)
                shutil.copytree(work / "final", shipped)
                load_model(str(work / "final"), "bfloat16").save_pretrained(shipped)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(work / "final", final)
            shutil.rmtree(work)
    state.wait_for_everyone()
    return final


def _build(
    dialogues: Sequence[Sequence[Message]], config: InitialConfig
) -> tuple[Renderer, PreTrainedModel]:
    """Return a tiny model with random weights for dialogues; one that sees, if any has an image."""
    texts = (message.text for messages in dialogues for message in messages)
    images = (m.image for messages in dialogues for m in messages if m.image is not None)
    image = next(images, None)
    envs: list[Any] = [make_envs(source.env, 1)[0].unwrapped for source in config.sources]
    patterns = dict.fromkeys(pattern for env in envs for pattern in env.token_patterns)
    tokenizer = build_tokenizer(texts, list(patterns), with_images=image is not None)
    if image is None:
        special = tokenizer.pad_token_id, tokenizer.eos_token_id
        return Renderer(tokenizer), build_model(
            len(tokenizer), *special, config.seed, config.initializer_range
        )
    resolution = open_image(image).shape[0]
    model = build_vision_model(tokenizer, resolution, config.seed, config.initializer_range)
    return Renderer(tokenizer, build_processor(tokenizer, resolution)), model


def _name(config: InitialConfig, *made_by: int) -> str:
    """Return its directory name: task, seed, a hash of the recipe and of what else made it."""
    text = json.dumps([_RECIPE, *made_by, _recipe(config)], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return f"{Path(config.task).stem}-seed{config.seed}-{digest}"  # a task may be a file


def _recipe(config: InitialConfig) -> dict[str, Any]:
    """Return all that decides what is made: every setting, and the content of the files named."""
    places = ("cache", "shipped", "ship", "run_dir", "resume", "trust_remote_code")
    recipe = {k: v for k, v in asdict(config).items() if k not in places}
    for name in ("data_file", "prompt_file"):
        if recipe[name] is not None:
            recipe[name] = hashlib.sha256(Path(recipe[name]).read_bytes()).hexdigest()
    # Settings that came later leave the name of a recipe as it was where they are not used.
    usual = asdict(InitialConfig())
    return {k: v for k, v in recipe.items() if k in _FIRST_SETTINGS or v != usual[k]}


def main(config: InitialConfig) -> None:
    """Run the command: print the checkpoint's directory on standard output, all else on error."""
    with contextlib.redirect_stdout(sys.stderr):
        final = make_initial(config)
    if PartialState().is_main_process:
        print(final)
    PartialState().destroy_process_group()


if __name__ == "__main__":
    run_command(main, InitialConfig)
