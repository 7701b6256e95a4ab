"""What is said in an episode: messages, replies and the dialogue that holds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from gym_dialogue.images import Image

BEYOND_CONTEXT = "context_length"
"""How an empty reply finishes that stands for one to a dialogue that is too long for the model."""


@dataclass(frozen=True)
class Reply:
    """What a policy answered.

    `token_ids` and `logprobs` have one entry per sampled token, the end-of-turn token included
    when it was sampled; both are empty for policies that are not token models. `logprobs` are
    natural logarithms under the distribution that was sampled from (temperature applied).
    `finish` is why it ended: `stop` where the policy ended it, `length` where a limit of tokens cut
    it off, BEYOND_CONTEXT, or another word of an API; empty where that is not known.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish: str = ""


@dataclass(frozen=True)
class Message:
    """One message. An assistant message that was sampled holds its `reply`.

    `trained` is False for a reply that is context only, such as the mistake in an example of
    correcting one: no loss falls on it. `puzzle` is the name of what the dialogue that it opens is
    about, where data tells it.
    """

    role: Literal["system", "user", "assistant"]
    text: str
    image: Image | None = None
    reply: Reply | None = None
    trained: bool = True
    puzzle: str = ""


class Expert(Protocol):
    """What scripted policies may ask of the environment that they play in."""

    def oracle_reply(self) -> str:
        """Return a reply that the verifier accepts in the present state."""

    def mistaken_reply(self, rng: np.random.Generator) -> str:
        """Return a well-formed reply that the verifier rejects in the present state."""

    def random_reply(self, rng: np.random.Generator) -> str:
        """Return a well-formed reply with a random answer."""


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
    memo: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What a policy has worked out about the dialogue and will need again, such as its image as the
    model takes it."""
    shared: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The same for all dialogues of an episode, until it ends."""

    @property
    def num_replies(self) -> int:
        """Return how many assistant messages the dialogue holds."""
        return sum(message.role == "assistant" for message in self.messages)

    def rng(self, stream: int = 0) -> np.random.Generator:
        """Return the random stream of the next reply; `stream` tells independent users apart."""
        return np.random.default_rng([*self.key, self.num_replies, stream])


def messages_to_json(
    messages: Sequence[Message], save_image: Callable[[Image], str]
) -> list[dict[str, Any]]:
    """Return messages as plain data: role, content, `trained: false` for a reply without loss, and
    `image`, the name of a file, which `save_image` writes and returns.
    """
    return [
        {"role": m.role, "content": m.text}
        | ({} if m.image is None else {"image": save_image(m.image)})
        | ({} if m.trained else {"trained": False})
        for m in messages
    ]
