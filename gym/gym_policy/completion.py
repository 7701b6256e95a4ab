"""The interface between a policy and its sampler: requests in, token ids and log-probabilities out.

Whatever implements it can serve a rollout: the samplers of `samplers.model_policy.make_sampler`, or
an inference server.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from gym_dialogue.errors import InputError
from gym_policy.vision import ProcessedImage

_ROUNDING = 1e-2  # by which a log-probability may exceed 0 in 16 bits


@dataclass(frozen=True)
class Decoding:
    """How replies are sampled: from softmax(logits / temperature), restricted to the nucleus
    `top_p`, or greedily; up to a token in `stop_ids` or `max_new_tokens`. The token `suppressed`
    has probability 0.
    """

    temperature: float
    max_new_tokens: int
    greedy: bool
    stop_ids: tuple[int, ...]
    pad_token_id: int
    suppressed: int | None = None
    top_p: float = 1.0


@dataclass(frozen=True)
class Request:
    """A prompt to continue: its tokens, its image, and the position of the first image token.

    `uniforms` (max_new_tokens,), each in [0, 1), determine the draws; None means greedy. In
    `shared`, a sampler may keep state for later prompts of the same episode.
    """

    token_ids: Sequence[int]
    uniforms: np.ndarray | None = None
    processed_image: ProcessedImage | None = None
    image_at: int | None = None
    shared: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Completion:
    """Sampled tokens, the stop token included, with their log-probabilities in nats under the
    distribution that `Decoding` describes.
    """

    token_ids: Sequence[int]
    logprobs: Sequence[float]


class Sampler(Protocol):
    """Continues prompts."""

    def sample(self, requests: Sequence[Request], decoding: Decoding) -> list[Completion]:
        """Return one completion per request, in order."""


def check_completions(
    completions: Sequence[Completion],
    requests: Sequence[Request],
    decoding: Decoding,
    vocab_size: int,
) -> None:
    """Raise InputError unless there is one completion per request, of valid tokens, up to the first
    stop token or `max_new_tokens`, with one valid log-probability per token.
    """
    if len(completions) != len(requests):
        raise InputError(f"sampler: gave {len(completions)} replies to {len(requests)} prompts")
    for number, completion in enumerate(completions):
        what = f"sampler: reply {number}"
        _check_tokens(completion.token_ids, decoding, vocab_size, what)
        _check_logprobs(completion, what)


def _check_tokens(token_ids: Sequence[int], decoding: Decoding, vocab_size: int, what: str) -> None:
    count, longest = len(token_ids), decoding.max_new_tokens
    if not 1 <= count <= longest:
        raise InputError(f"{what} has {count} tokens: must be from 1 to {longest}")
    if not all(0 <= token < vocab_size for token in token_ids):
        raise InputError(f"{what} has a token outside of the vocabulary of {vocab_size}")
    ends = next((i + 1 for i, token in enumerate(token_ids) if token in decoding.stop_ids), None)
    if ends is not None and ends < count:
        raise InputError(f"{what} goes on for {count - ends} tokens after its end")
    if ends is None and count < longest:
        raise InputError(
            f"{what} has {count} of {longest} tokens and no end: must include the token that "
            f"ended it, one of {list(decoding.stop_ids)}"
        )


def _check_logprobs(completion: Completion, what: str) -> None:
    count, logprobs = len(completion.token_ids), completion.logprobs
    if count != len(logprobs):
        raise InputError(f"{what} has {count} tokens and {len(logprobs)} log-probabilities")
    if not all(map(math.isfinite, logprobs)):
        raise InputError(
            f"{what} has a log-probability that is not a finite number: the weights may have "
            "diverged, or the sampler's precision may be too low"
        )
    if max(logprobs) > _ROUNDING:
        raise InputError(
            f"{what} has a log-probability of {max(logprobs):.3g}: must be at most 0, the "
            "natural logarithm of a probability"
        )
