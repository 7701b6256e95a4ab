"""TRL, for models that call tools: an environment whose one tool hands in a reply.

GRPOTrainer(..., environment_factory=tool_environment("gym_virl/Navigation-v0"),
            train_dataset=gym_dialogue.adapters.trl.prompt_dataset("gym_virl/Navigation-v0", 1000))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import PIL.Image

from gym_dialogue.adapters.episodes import make
from gym_dialogue.adapters.episodes import reply as as_reply
from gym_dialogue.errors import InputError
from gym_dialogue.images import open_images
from gym_dialogue.messages import Message
from gym_dialogue.rollout import EpisodePlayer, Task


def tool_environment(
    env_id: str, kwargs: Mapping[str, Any] | None = None
) -> Callable[[], DialogueTools]:
    """Return GRPOTrainer's `environment_factory` for the prompts of `trl.prompt_dataset`."""
    return lambda: DialogueTools(make(env_id, kwargs)[0])


class DialogueTools:
    """An episode at a time. What is public, but for `reset` and `get_reward`, is a tool."""

    def __init__(self, env: Any):
        self._player = EpisodePlayer(env)
        self._is_over = True

    def reset(self, env_seed: int, **_: Any) -> list[dict[str, Any]] | None:
        """Begin the episode of a row, whose prompt has the text; return its image, if any."""
        (prompt,) = self._player.start(Task(env_seed, (env_seed,))).messages
        self._is_over = False
        return None if prompt.image is None else _blocks(prompt)[:-1]

    def answer(self, reply: str) -> str | list[dict[str, Any]]:
        """Hand in a reply to the task.

        Args:
            reply: The whole reply, in the form that the task asks for.

        Returns:
            What the verifier says, the next task, or that the episode has ended.

        """
        if self._is_over:
            raise InputError("the episode has ended")
        self._is_over = self._player.answer(as_reply(reply))
        if self._is_over:
            return self._player.episode.turns[-1].feedback or "The episode has ended."
        message = self._player.dialogue.messages[-1]
        return message.text if message.image is None else _blocks(message)

    def get_reward(self) -> float:
        """Return the sum of the rewards so far. Raises InputError before the first `reset`."""
        if not hasattr(self._player, "episode"):
            raise InputError("no episode has begun; reset first")
        return float(sum(turn.reward for turn in self._player.episode.turns))


def _blocks(message: Message) -> list[dict[str, Any]]:
    """Return a message with images as blocks of content."""
    assert message.image is not None
    images = [PIL.Image.fromarray(image) for image in open_images(message.image)]
    shown = [{"type": "image", "image": image} for image in images]
    return [*shown, {"type": "text", "text": message.text}]
