"""What is said in an episode: messages, replies and the dialogue that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np


@dataclass(frozen=True)
class Reply:
    """What a policy answered.

    `token_ids` and `logprobs` have one entry per sampled token, the end-of-turn token included
    when it was sampled; both are empty for policies that are not token models. `logprobs` are
    natural logarithms under the distribution that was sampled from (temperature applied).
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Message:
    """One message. An assistant message that was sampled holds its `reply`.

    `trained` is False for a reply that is context only, such as the mistake in an example of
    correcting one: no loss falls on it.
    """

    role: Literal["system", "user", "assistant"]
    text: str
    image: np.ndarray | None = None
    reply: Reply | None = None
    trained: bool = True


class Expert(Protocol):
    """What scripted policies may ask of the environment that they play in."""

    def oracle_reply(self) -> str:
        """A reply that the verifier accepts in the present state."""

    def mistaken_reply(self, rng: np.random.Generator) -> str:
        """A well-formed reply that the verifier rejects in the present state."""

    def random_reply(self, rng: np.random.Generator) -> str:
        """A well-formed reply with a random answer."""


@dataclass
class Dialogue:
    """Messages in order, from the task's prompt to the latest message.

    `key` seeds the sampling of its replies: a policy that draws random numbers derives them
    from (key, number of replies so far) and from nothing else, so what is sampled does not
    depend on which other dialogues share the batch.
    """

    messages: list[Message] = field(default_factory=list)
    key: tuple[int, ...] = ()
    expert: Expert | None = None

    @property
    def num_replies(self) -> int:
        """How many assistant messages the dialogue holds."""
        return sum(message.role == "assistant" for message in self.messages)

    def rng(self, stream: int = 0) -> np.random.Generator:
        """The random stream of the next reply; `stream` tells apart independent users of it."""
        return np.random.default_rng([*self.key, self.num_replies, stream])

    def to_json(self) -> list[dict]:
        """The messages as plain data (`messages_to_json`)."""
        return messages_to_json(self.messages)


def messages_to_json(messages: Sequence[Message]) -> list[dict]:
    """Messages as plain data: role, content, and `trained: false` for a reply without loss."""
    return [
        {"role": m.role, "content": m.text} | ({} if m.trained else {"trained": False})
        for m in messages
    ]
