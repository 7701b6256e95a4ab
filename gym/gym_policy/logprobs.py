"""The one definition of the distribution that is sampled from and learned."""

from __future__ import annotations

import torch


def tempered_logprobs(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probabilities (..., V) in float32 of the distribution softmax(logits / temperature)."""
    return torch.log_softmax(logits.float() / temperature, dim=-1)


def score_tokens(
    logits: torch.Tensor, token_ids: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability (N,) of each given token and entropy (N,) of its distribution, in nats.

    `logits` is (N, V), `token_ids` is (N,).
    """
    logprobs = tempered_logprobs(logits, temperature)
    chosen = logprobs.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return chosen, entropy


def draw_tokens(logprobs: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """One token id (B,) for each row of log-probabilities (B, V), by inverting the cumulative
    distribution at `uniforms` (B,), each in [0, 1).
    """
    cumulative = logprobs.double().exp().cumsum(-1)
    # Scaled by the total, so that rounding cannot leave a draw beyond the last token.
    points = uniforms.double().unsqueeze(-1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, points, right=True).squeeze(-1)
