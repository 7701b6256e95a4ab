"""The seam between a policy and what samples for it: requests in, token ids and log-probabilities
out. Anything that does that can serve a rollout (`sampler.SAMPLERS`, or an inference server).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from gym_dialogue.errors import InputError
from gym_policy.vision import Picture


@dataclass(frozen=True)
class Decoding:
    """How replies are sampled: from softmax(logits / temperature), or by the most likely token, up
    to a token of `stop_ids` or `max_new_tokens`; the token `forbidden` is never said.
    """

    temperature: float
    max_new_tokens: int
    greedy: bool
    stop_ids: tuple[int, ...]
    pad_token_id: int
    forbidden: int | None = None


@dataclass(frozen=True)
class Request:
    """A prompt to be continued: its tokens, its image as the model takes it and where that stands.

    `uniforms` (max_new_tokens,), each in [0, 1), decide what is drawn (None: greedy). `shared` is a
    place for what the sampler wants to know again about later prompts of the same episode.
    """

    token_ids: Sequence[int]
    uniforms: np.ndarray | None = None
    picture: Picture | None = None
    image_at: int | None = None
    shared: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Completion:
    """Sampled tokens, the one that ended them included, with their log-probabilities in nats."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]


class Sampler(Protocol):
    """Continues prompts."""

    def sample(self, requests: Sequence[Request], decoding: Decoding) -> list[Completion]:
        """One completion of each request, in order."""


def check_completions(
    found: Sequence[Completion], requests: Sequence[Request], decoding: Decoding, vocab_size: int
) -> None:
    """Raises InputError unless there is one completion a request, with as many finite
    log-probabilities as tokens, of tokens that there are, and no more of them than asked for.
    """
    if len(found) != len(requests):
        raise InputError(f"sampler: gave {len(found)} replies to {len(requests)} prompts")
    for number, completion in enumerate(found):
        what = f"sampler: reply {number}"
        ids, logprobs = completion.token_ids, completion.logprobs
        if len(ids) != len(logprobs):
            raise InputError(f"{what} has {len(ids)} tokens and {len(logprobs)} log-probabilities")
        if not 1 <= len(ids) <= decoding.max_new_tokens:
            raise InputError(
                f"{what} has {len(ids)} tokens: must be from 1 to {decoding.max_new_tokens}"
            )
        if not all(0 <= token < vocab_size for token in ids):
            raise InputError(f"{what} has a token outside of the vocabulary of {vocab_size}")
        if not all(map(math.isfinite, logprobs)):
            raise InputError(
                f"{what} has a log-probability that is not a finite number: the weights may have "
                "diverged, or the sampler's precision be too low"
            )
