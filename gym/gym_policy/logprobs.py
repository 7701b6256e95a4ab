"""The one definition of the distribution that is sampled from and learned."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = {"cpu": 10_000_000, "cuda": 1 << 27}
"""Logits that are held at a time while tokens are scored, as opposed to sampled, by device. On a
CPU 40 MB in float32: glibc gives blocks above 32 MiB back at once, and those below it kept tens of
GB in pieces that no later block fitted."""

_NEVER = -1e9  # finite, so that probability times logarithm is 0 and not undefined


def tempered_logprobs(
    logits: torch.Tensor, temperature: float, forbidden: int | None = None
) -> torch.Tensor:
    """Log-probabilities (..., V) in float32 of the distribution softmax(logits / temperature), in
    which the token `forbidden` has probability 0.
    """
    logits = logits.float() / temperature
    if forbidden is not None:
        is_forbidden = torch.arange(logits.shape[-1], device=logits.device) == forbidden
        logits = logits.masked_fill(is_forbidden, _NEVER)
    return torch.log_softmax(logits, dim=-1)


def score_tokens(
    logits: torch.Tensor,
    token_ids: torch.Tensor,
    temperature: float,
    forbidden: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability (N,) of each given token and entropy (N,) of its distribution, in nats.

    `logits` is (N, V), `token_ids` is (N,).
    """
    logprobs = tempered_logprobs(logits, temperature, forbidden)
    chosen = logprobs.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return chosen, entropy


def score_states(
    head: nn.Module,
    states: torch.Tensor,
    token_ids: torch.Tensor,
    temperature: float,
    forbidden: int | None = None,
    entropy_learns: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from hidden states (N, H), whose logits are `head(states)` (N, V): some at a time,
    and again in the backward pass, so that there never are many of them (LOGITS_AT_ONCE).
    Without `entropy_learns`, the entropy has no gradient.
    """

    def score(states: torch.Tensor, token_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = head(states)
        if entropy_learns:
            return score_tokens(logits, token_ids, temperature, forbidden)
        logprobs = tempered_logprobs(logits, temperature, forbidden)
        chosen = logprobs.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
        with torch.no_grad():
            entropy = -torch.linalg.vecdot(logprobs.exp(), logprobs)
        return chosen, entropy

    rows = states_at_once(head.weight.shape[0], states.device.type)
    if len(states) <= rows:
        return score(states, token_ids)
    parts = []
    for start in range(0, len(states), rows):
        part = states[start : start + rows], token_ids[start : start + rows]
        if torch.is_grad_enabled():
            parts.append(checkpoint(score, *part, use_reentrant=False))
        else:
            parts.append(score(*part))
    logprobs, entropy = (torch.cat(values) for values in zip(*parts, strict=True))
    return logprobs, entropy


def states_at_once(vocabulary: int, device: str) -> int:
    """How many tokens are scored together."""
    return max(64, LOGITS_AT_ONCE.get(device, LOGITS_AT_ONCE["cuda"]) // vocabulary)


def draw_tokens(logprobs: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """One token id (B,) for each row of log-probabilities (B, V), by inverting the cumulative
    distribution at `uniforms` (B,), each in [0, 1).
    """
    cumulative = logprobs.double().exp().cumsum(-1)
    # Scaled by the total, so that rounding cannot leave a draw beyond the last token.
    points = uniforms.double().unsqueeze(-1) * cumulative[:, -1:]
    found = torch.searchsorted(cumulative, points, right=True).squeeze(-1)
    # Beyond the last token where a probability is not a number, which its logarithm shows.
    return found.clamp(max=logprobs.shape[-1] - 1)


def keep_nucleus(logprobs: torch.Tensor, top_p: float) -> torch.Tensor:
    """Log-probabilities (..., V) of the distribution among the most likely tokens only, the fewest
    that together have a probability of at least `top_p` (nucleus sampling, arXiv 1904.09751).
    """
    ordered, order = logprobs.sort(dim=-1, descending=True, stable=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()  # of the more likely tokens
    is_out = torch.zeros_like(logprobs, dtype=torch.bool).scatter(-1, order, before >= top_p)
    return torch.log_softmax(logprobs.masked_fill(is_out, _NEVER), dim=-1)


def choose_tokens(
    logits: torch.Tensor,
    temperature: float,
    forbidden: int | None = None,
    uniforms: torch.Tensor | None = None,
    top_p: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next token (B,) after each row of logits (B, V) and its log-probability (B,): drawn by
    `uniforms` (B,), or without them the most likely one. Drawing from uniforms that each dialogue
    brings along keeps what is sampled and what is recorded the same, and a row independent of its
    neighbours. `top_p` below 1 is for evaluation: no learner scores what it leaves out.
    """
    logprobs = tempered_logprobs(logits, temperature, forbidden)
    if top_p < 1 and uniforms is not None:
        logprobs = keep_nucleus(logprobs, top_p)
    chosen = logprobs.argmax(-1) if uniforms is None else draw_tokens(logprobs, uniforms)
    return chosen, logprobs.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
