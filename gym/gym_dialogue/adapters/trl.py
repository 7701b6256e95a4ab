"""TRL: GRPOTrainer learns from dialogues with the verifier; `trl_train` is a command that does so.

    GRPOTrainer(..., rollout_func=DialogueRollouts("gym_virl/Navigation-v0"),
                reward_funcs=episode_reward,
                train_dataset=prompt_dataset("gym_virl/Navigation-v0", 1000))

A sequence is a whole episode: a fresh dialogue comes after the ones before it, in words; images are
those of the first prompt. For models that call tools, `trl_tools` has an environment factory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import PIL.Image

from gym_dialogue.adapters.episodes import check_seeds, make
from gym_dialogue.adapters.library import library
from gym_dialogue.images import open_images
from gym_dialogue.messages import Dialogue, Message
from gym_dialogue.policy import Policy
from gym_dialogue.rollout import EpisodePlayer, Task

with library("trl"):
    from datasets import Dataset
    from trl import GRPOTrainer

    from gym_policy import ModelPolicy, Renderer
    from gym_policy.renderer import Rendered

SEED = "env_seed"
"""The key of a prompt's message that holds the seed of its episode."""


def prompt_dataset(
    env_id: str, episodes: int, seed: int = 0, kwargs: Mapping[str, Any] | None = None
) -> Dataset:
    """Return the prompts of the episodes seeded `seed`, `seed` + 1, ..., which GRPOTrainer trains
    on, with their images; the column SEED is for `tool_environment`. Raises InputError for
    arguments that the environment does not take.
    """
    player, rows = EpisodePlayer(make(env_id, kwargs)[0]), []
    for number in check_seeds(episodes, seed):
        (prompt,) = player.start(Task(number, (number,))).messages
        message = {"role": "user", "content": prompt.text, SEED: number}
        row: dict[str, Any] = {"prompt": [message], SEED: number}
        if prompt.image is not None:
            row["images"] = [PIL.Image.fromarray(image) for image in open_images(prompt.image)]
        rows.append(row)
    return Dataset.from_list(rows)


class DialogueRollouts:
    """Plays the episodes of prompts of `prompt_dataset` with the same environment. The trainer's
    temperature holds, and max_completion_length for each reply. `policy` makes another policy.
    """

    def __init__(
        self,
        env_id: str,
        kwargs: Mapping[str, Any] | None = None,
        policy: Callable[[GRPOTrainer], Policy] | None = None,
    ):
        self.env_id, self.kwargs = env_id, dict(kwargs or {})
        self.make_policy = policy or _sampling
        self._envs: list[Any] = []

    def __call__(self, prompts: Sequence[Any], trainer: GRPOTrainer) -> dict[str, list[Any]]:
        """Return a sequence an episode. `env_mask` is 1 at the policy's tokens; `env_reward`, the
        sum over the turns, and `is_success` go to reward functions.
        """
        missing = len(prompts) - len(self._envs)
        self._envs += make(self.env_id, self.kwargs, missing) if missing > 0 else []
        stream = (trainer.args.seed, trainer.state.global_step, trainer.accelerator.process_index)
        players, dialogues = [], []
        for row, (prompt, env) in enumerate(zip(prompts, self._envs, strict=False)):
            task = Task(prompt[-1][SEED], (prompt[-1][SEED], *stream, row))
            players.append(EpisodePlayer(env))
            dialogues.append(Dialogue([*players[-1].start(task).messages], key=task.sample_key))
        self._play(players, dialogues, self.make_policy(trainer))
        renderer = _renderer(trainer)
        return _columns(players, [renderer.render(dialogue) for dialogue in dialogues])

    def _play(
        self, players: list[EpisodePlayer], dialogues: list[Dialogue], policy: Policy
    ) -> None:
        active = list(range(len(players)))
        while active:
            replies = policy.act([dialogues[i] for i in active])
            for i, reply in zip(tuple(active), replies, strict=True):
                dialogues[i].messages.append(Message("assistant", reply.text, reply=reply))
                if players[i].answer(reply):
                    active.remove(i)
                else:
                    dialogues[i].messages.append(players[i].dialogue.messages[-1])


def episode_reward(env_reward: list[float], **_: Any) -> list[float]:
    """Return the rewards that `DialogueRollouts` has found, as a reward function."""
    return env_reward


def _renderer(trainer: GRPOTrainer) -> Renderer:
    """Return what turns dialogues into tokens, and their images into what the model takes."""
    processing = trainer.processing_class
    if getattr(processing, "image_processor", None) is None:
        return Renderer(processing)
    return Renderer(processing.tokenizer, processing)


def _sampling(trainer: GRPOTrainer) -> Policy:
    """Return the policy that samples from the trainer's model."""
    return ModelPolicy(
        trainer.accelerator.unwrap_model(trainer.model),
        _renderer(trainer),
        temperature=trainer.args.temperature,
        max_new_tokens=trainer.args.max_completion_length,
    )


def _columns(players: list[EpisodePlayer], rendered: list[Rendered]) -> dict[str, list[Any]]:
    """Return what GRPOTrainer takes of a rollout function, a row an episode."""
    columns: dict[str, list[Any]] = {
        name: []
        for name in (
            "prompt_ids",
            "completion_ids",
            "logprobs",
            "env_mask",
            "env_reward",
            "is_success",
        )
    }
    for player, sequence in zip(players, rendered, strict=True):
        start = sequence.prompt_ends[0] + 1
        sampled = [turn >= 0 for turn in sequence.turn[start:]]
        logprobs = iter(p for turn in player.episode.turns for p in turn.reply.logprobs)
        row = {
            "prompt_ids": sequence.token_ids[:start],
            "completion_ids": sequence.token_ids[start:],
            "logprobs": [next(logprobs) if is_reply else 0.0 for is_reply in sampled],
            "env_mask": [int(is_reply) for is_reply in sampled],
            "env_reward": sum(turn.reward for turn in player.episode.turns),
            "is_success": player.episode.is_success,
        }
        for name, value in row.items():
            columns[name].append(value)
    return columns
