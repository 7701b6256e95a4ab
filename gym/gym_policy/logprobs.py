"""The one definition of the distribution that replies are sampled from and learned under."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = {"cpu": 10_000_000, "cuda": 1 << 27}
"""Logits in memory at a time while tokens are scored (not sampled), by device. On a CPU this is 40
MB in float32: glibc returns blocks above 32 MiB to the system at once, while smaller ones left tens
of GB in fragments."""

_NEVER = -1e9  # finite, so that probability times logarithm is 0 and not undefined


def tempered_logprobs(
    logits: torch.Tensor, temperature: float, suppressed: int | None = None
) -> torch.Tensor:
    """Return the log-probabilities (..., V), in float32, of softmax(logits / temperature) in which
    the token `suppressed` has probability 0.
    """
    logits = logits.float() / temperature
    if suppressed is not None:
        is_suppressed = torch.arange(logits.shape[-1], device=logits.device) == suppressed
        logits = logits.masked_fill(is_suppressed, _NEVER)
    return torch.log_softmax(logits, dim=-1)


def score_tokens(
    logits: torch.Tensor,
    token_ids: torch.Tensor,
    temperature: float,
    suppressed: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each token's log-probability (N,) and its distribution's entropy (N,), in nats.

    `logits` is (N, V), `token_ids` is (N,).
    """
    logprobs = tempered_logprobs(logits, temperature, suppressed)
    chosen = logprobs.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return chosen, entropy


def score_states(
    head: nn.Module,
    states: torch.Tensor,
    token_ids: torch.Tensor,
    temperature: float,
    suppressed: int | None = None,
    entropy_learns: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same from hidden states (N, H) with logits `head(states)` (N, V).

    Logits are computed in chunks of LOGITS_AT_ONCE, and again in the backward pass, to bound their
    memory. Without `entropy_learns`, the entropy has no gradient.
    """

    def score(states: torch.Tensor, token_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = head(states)
        if entropy_learns:
            return score_tokens(logits, token_ids, temperature, suppressed)
        logprobs = tempered_logprobs(logits, temperature, suppressed)
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
    """Return how many tokens are scored together."""
    return max(64, LOGITS_AT_ONCE.get(device, LOGITS_AT_ONCE["cuda"]) // vocabulary)


def draw_tokens(logprobs: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Draw one token id (B,) per row of log-probabilities (B, V) by inverting the cumulative
    distribution at `uniforms` (B,), each in [0, 1).
    """
    cumulative = logprobs.double().exp().cumsum(-1)
    # Scaled by the total, so that rounding cannot leave a draw beyond the last token.
    points = uniforms.double().unsqueeze(-1) * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, points, right=True).squeeze(-1)
    # A NaN among the probabilities leads beyond the last token; the log-probability shows it.
    return drawn.clamp(max=logprobs.shape[-1] - 1)


def keep_nucleus(logprobs: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return the log-probabilities (..., V) of the distribution restricted to its nucleus: the
    fewest tokens whose probabilities sum to at least `top_p` (arXiv 1904.09751).
    """
    ordered, order = logprobs.sort(dim=-1, descending=True, stable=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()  # of the more likely tokens
    is_out = torch.zeros_like(logprobs, dtype=torch.bool).scatter(-1, order, before >= top_p)
    return torch.log_softmax(logprobs.masked_fill(is_out, _NEVER), dim=-1)


def choose_tokens(
    logits: torch.Tensor,
    temperature: float,
    suppressed: int | None = None,
    uniforms: torch.Tensor | None = None,
    top_p: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the next token (B,) per row of logits (B, V); return it and its log-probability (B,).

    With `uniforms` (B,) tokens are drawn, else the most likely one is taken. Since each dialogue
    brings its own uniforms, a row's draw does not depend on the rest of the batch. `top_p` below 1
    is for evaluation only: learners do not score truncated distributions.
    """
    logprobs = tempered_logprobs(logits, temperature, suppressed)
    if top_p < 1 and uniforms is not None:
        logprobs = keep_nucleus(logprobs, top_p)
    chosen = logprobs.argmax(-1) if uniforms is None else draw_tokens(logprobs, uniforms)
    return chosen, logprobs.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
