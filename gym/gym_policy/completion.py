"""The seam between a policy and what samples for it: requests in, token ids and log-probabilities
out. Anything that does that can serve a rollout (those of `sampler.make_sampler`, or an inference
server).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from gym_dialogue.errors import InputError
from gym_policy.vision import Picture

_ABOVE_ZERO = 1e-2  # that a log-probability may be, by rounding in 16 bits


@dataclass(frozen=True)
class Decoding:
    """How replies are sampled: from softmax(logits / temperature), of which `top_p` keeps the most
    likely tokens, or by the most likely token, up to a token of `stop_ids` or `max_new_tokens`; the
    token `forbidden` is never said.
    """

    temperature: float
    max_new_tokens: int
    greedy: bool
    stop_ids: tuple[int, ...]
    pad_token_id: int
    forbidden: int | None = None
    top_p: float = 1.0


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
    """Sampled tokens, the one that ended them included, with their log-probabilities in nats under
    the distribution that `Decoding` describes.
    """

    token_ids: Sequence[int]
    logprobs: Sequence[float]


class Sampler(Protocol):
    """Continues prompts."""

    def sample(self, requests: Sequence[Request], decoding: Decoding) -> list[Completion]:
        """One completion of each request, in order."""


def check_completions(
    found: Sequence[Completion], requests: Sequence[Request], decoding: Decoding, vocab_size: int
) -> None:
    """Raises InputError unless there is one completion a request, of tokens that there are, up to
    the first that ends a reply or as many as were asked for, with a log-probability of each.
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
        ends = next((i + 1 for i, token in enumerate(ids) if token in decoding.stop_ids), None)
        if ends is not None and ends < len(ids):
            raise InputError(f"{what} goes on for {len(ids) - ends} tokens after its end")
        if ends is None and len(ids) < decoding.max_new_tokens:
            raise InputError(
                f"{what} has {len(ids)} of {decoding.max_new_tokens} tokens and no end: must "
                f"include the token that ended it, one of {list(decoding.stop_ids)}"
            )
        if not all(map(math.isfinite, logprobs)):
            raise InputError(
                f"{what} has a log-probability that is not a finite number: the weights may have "
                "diverged, or the sampler's precision be too low"
            )
        if max(logprobs) > _ABOVE_ZERO:
            raise InputError(
                f"{what} has a log-probability of {max(logprobs):.3g}: must be at most 0, the "
                "natural logarithm of a probability"
            )
