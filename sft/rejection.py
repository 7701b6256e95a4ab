"""Dialogues to fine-tune on that the policy wrote itself: those of its replies that the verifier
accepts (rejection sampling, as in RFT, arXiv 2308.01825). It is SFT on the policy's own
distribution, without a teacher, and without a gradient from wrong replies.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from accelerate import PartialState
from tqdm import tqdm

from gym_command.command import run_command
from gym_command.files import write_atomically
from gym_command.ranges import Count, Length, Seed, Temperature, check_ranges
from gym_command.run_dir import RunDir, saved_checkpoints
from gym_dialogue import Episode, InputError, Task, rollout, shows_images
from gym_dialogue.images import Image, save_image
from gym_dialogue.make import EnvConfig, Kwargs, make_envs, with_prompt_file
from gym_dialogue.messages import messages_to_json
from gym_policy import ModelPolicy, load_model, load_renderer
from gym_policy.compute import SAMPLED, num_parameters
from gym_policy.distributed import join_processes
from gym_policy.samplers.model_policy import SamplerName
from sft.data import gathered, write_jsonl

_OWN_STREAM = 0x0E11  # tells these seeds from those of training and evaluation
_TRIES = 50  # episodes for each dialogue that is wanted, by default


@dataclass
class RejectionConfig:
    """Sample a checkpoint's replies and keep the right ones as dialogues to fine-tune on."""

    model: str = ""
    """The policy: a directory saved by save_pretrained, a hub name, or a run, which stands for its
    last checkpoint."""
    run_dir: str = "runs/own"
    """Where data.jsonl, its images and own.json go."""
    env: EnvConfig = field(default_factory=EnvConfig)
    """The environment to play in. The first reply to each of its prompts counts."""
    prompt_file: str | None = None
    """Wording of prompts. None: the environment's own."""
    chat_template_kwargs: Kwargs | None = None
    """Variables of the model's chat template, such as {"enable_thinking": false}."""
    trust_remote_code: bool = False
    """Whether Python code that comes with the model is run. Without it, a model that needs such
    code is refused."""
    seed: Seed = 0
    """Decides every episode and every random number of sampling."""
    num_dialogues: Count = 8000
    """How many right replies are wanted."""
    group_size: Count = 1
    """Episodes on the same puzzle, which differ by what is sampled."""
    max_episodes: Count | None = None
    """Episodes that are played at most. None: 50 for each dialogue that is wanted."""
    temperature: Temperature = 1.0
    """Of sampling."""
    max_new_tokens: Length = 64
    """Tokens a reply may have."""
    batch_size: Length = 256
    """Episodes played side by side, which share the sampling batch."""
    sampler: SamplerName = "cached"
    """What samples (`gym_policy.samplers.model_policy`)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights."""


def check_config(config: RejectionConfig) -> None:
    """Raises InputError for values that describe nothing to sample."""
    if not config.model:
        raise InputError("model: name the policy with --model=DIRECTORY_OR_HUB_NAME")
    check_ranges(config)


def sample_right_replies(
    policy: ModelPolicy, config: RejectionConfig, directory: Path
) -> dict[str, Any]:
    """Play until `num_dialogues` first replies were right, or `max_episodes` have been played.
    Writes data.jsonl, with images in the directory images, and returns what own.json says, on every
    rank. Raises InputError if no reply was right.

    The ranks take batches in turn, and which replies are kept does not depend on their number.
    """
    state = PartialState()
    source = with_prompt_file(config.env, config.prompt_file)
    # More replies would be to the verifier's word, and are not looked at.
    single = EnvConfig(source.id, source.kwargs | {"verify_iter": 1})
    envs = make_envs(single, config.batch_size)
    limit = config.max_episodes or _TRIES * config.num_dialogues
    kept: list[dict[str, Any]] = []
    played: list[dict[str, Any]] = []
    progress = tqdm(
        total=config.num_dialogues,
        desc="right replies",
        unit="reply",
        mininterval=1,
        disable=not state.is_main_process,
    )
    with progress:
        for begin in range(0, math.ceil(limit / config.batch_size), state.num_processes):
            first = (begin + state.process_index) * config.batch_size
            numbers = range(first, max(first, min(first + config.batch_size, limit)))
            episodes = rollout(envs, policy, [_task(config, number) for number in numbers])
            share = [
                _played(number, episode, policy, directory)
                for number, episode in zip(numbers, episodes, strict=True)
            ]
            del episodes  # with their images, before the next are played
            together = sorted(gathered(share), key=lambda record: record["number"])
            played += together
            right = [record for episode in together for record in episode.pop("right")]
            progress.update(min(len(right), config.num_dialogues - len(kept)))
            kept += right
            if len(kept) >= config.num_dialogues:
                break
    if not kept:
        raise InputError(
            f"model {config.model}: none of {sum(e['replies'] for e in played)} first replies was "
            "right: there is nothing to learn from"
        )
    verified, kept = len(kept), kept[: config.num_dialogues]
    if state.is_main_process:
        write_jsonl(RunDir(directory).data_file, kept)
    counts = {"dialogues": len(kept), "episodes": len(played), "verified": verified}
    return counts | _totals(played, num_parameters(policy.model))


def _totals(played: Sequence[dict[str, Any]], parameters: int) -> dict[str, Any]:
    """Sums over the episodes that were played, and the compute of sampling them, 2 N D."""
    tokens = sum(e["tokens"] for e in played)
    return {
        "replies": sum(e["replies"] for e in played),
        "puzzles_played": len({e["puzzle"] for e in played}),
        "puzzles_covered": len({e["puzzle"] for e in played if e["is_right"]}),
        "reply_tokens": sum(e["reply_tokens"] for e in played),
        "tokens": tokens,
        "parameters": parameters,
        "flops": float(SAMPLED * parameters * tokens),
    }


def _task(config: RejectionConfig, number: int) -> Task:
    group, member = divmod(number, config.group_size)
    key = (_OWN_STREAM, config.seed, group)
    return Task(int(np.random.SeedSequence(key).generate_state(1)[0]), (*key, member))


def _played(number: int, episode: Episode, policy: ModelPolicy, directory: Path) -> dict[str, Any]:
    """Return an episode as plain data: what it took, and its right replies as dialogues."""
    right = []
    for turn in episode.turns:
        if not turn.is_right:
            continue

        def save(image: Image, name: str = f"{number}-{turn.dialogue}.png") -> str:
            save_image(RunDir(directory).images_dir / name, image)
            return f"images/{name}"

        right.append(
            {
                "messages": messages_to_json(episode.dialogues[turn.dialogue].messages, save),
                "puzzle": episode.puzzle,
            }
        )
    answered = sorted({turn.dialogue for turn in episode.turns})
    return {
        "number": number,
        "puzzle": episode.puzzle,
        "replies": len(episode.turns),
        "reply_tokens": sum(len(turn.reply.token_ids) for turn in episode.turns),
        "tokens": _tokens(policy, episode, answered),
        "is_right": bool(right),
        "right": right,
    }


def _tokens(policy: ModelPolicy, episode: Episode, answered: Sequence[int]) -> int:
    """Count the tokens of the episode's answered dialogues: prompts and replies."""
    rendered = (policy.renderer.render(episode.dialogues[index]) for index in answered)
    return sum(len(dialogue.token_ids) for dialogue in rendered)


def main(config: RejectionConfig) -> Path:
    """Sample, leave data.jsonl and own.json in a directory, and return it."""
    check_config(config)
    path = saved_checkpoints(config.model)[-1]
    renderer = load_renderer(path, config.chat_template_kwargs, config.trust_remote_code)
    (env,) = make_envs(with_prompt_file(config.env, config.prompt_file), 1)
    if shows_images(env):
        renderer.require_images(f"environment {config.env.id}", path)
    state = join_processes()
    policy = ModelPolicy(
        load_model(path, config.dtype, config.trust_remote_code).to(state.device),
        renderer,
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
        sampler=config.sampler,
    )
    directory = Path(config.run_dir)
    if state.is_main_process:
        RunDir(directory).start(config)
    state.wait_for_everyone()
    counts = {"model": path} | sample_right_replies(policy, config, directory)
    if state.is_main_process:
        # Written last: with it, the data are whole.
        write_atomically(directory / "own.json", json.dumps(counts, indent=1) + "\n")
        print(
            f"{counts['verified']:,} of {counts['replies']:,} first replies of {path} were right, "
            f"on {counts['puzzles_covered']:,} of {counts['puzzles_played']:,} puzzles; "
            f"{counts['dialogues']:,} dialogues are in {RunDir(directory).data_file} "
            f"({counts['flops']:.2e} FLOPs)"
        )
        if counts["dialogues"] < config.num_dialogues:
            print(f"warning: {config.num_dialogues:,} were wanted; raise max_episodes")
    state.destroy_process_group()
    return directory


if __name__ == "__main__":
    run_command(main, RejectionConfig)
