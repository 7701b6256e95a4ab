"""Policies: what answers a batch of dialogues. Scripted ones live here, models in gym_policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from gym_dialogue.errors import InputError
from gym_dialogue.messages import Dialogue, Expert, Reply


class Policy(ABC):
    """Anything that answers dialogues."""

    @abstractmethod
    def act(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        """Return one reply to each dialogue, in order."""


def _expert(dialogue: Dialogue) -> Expert:
    """Return the environment that a scripted policy may ask. Raises ValueError where it is gone."""
    if dialogue.expert is None:
        raise ValueError(
            "a scripted policy answers dialogues of an environment that waits for them"
        )
    return dialogue.expert


class OraclePolicy(Policy):
    """Always right: asks the environment for its solution."""

    def act(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        return [Reply(_expert(dialogue).oracle_reply()) for dialogue in dialogues]


class RandomPolicy(Policy):
    """Well-formed replies with random answers: the floor that learning starts above."""

    def act(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        return [Reply(_expert(d).random_reply(d.rng())) for d in dialogues]


class NoisyOraclePolicy(Policy):
    """Wrong with probability `error_rate` in each reply, otherwise right."""

    def __init__(self, error_rate: float):
        if not 0 <= error_rate <= 1:
            raise InputError(f"error_rate={error_rate}: must be between 0 and 1")
        self.error_rate = error_rate

    def act(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        replies = []
        for dialogue in dialogues:
            rng = dialogue.rng()
            wrong = rng.random() < self.error_rate
            expert = _expert(dialogue)
            replies.append(Reply(expert.mistaken_reply(rng) if wrong else expert.oracle_reply()))
        return replies


_OTHER_EPISODE = (
    "they are of another episode, or env_kwargs are not those of the suite that was played"
)


class RecordedPolicy(Policy):
    """Says again what was said in one episode, in that order. Raises InputError where the episode
    takes more replies than there are.
    """

    def __init__(self, replies: Iterable[str]):
        self.replies = iter(replies)

    def act(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        replies = []
        for _ in dialogues:
            text = next(self.replies, None)
            if text is None:
                raise InputError(f"recorded replies end before the episode does: {_OTHER_EPISODE}")
            replies.append(Reply(text))
        return replies

    def check_all_said(self) -> None:
        """Raises InputError where the episode took fewer replies than there are."""
        if next(self.replies, None) is not None:
            raise InputError(f"recorded replies go on after the episode: {_OTHER_EPISODE}")
