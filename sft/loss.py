"""The losses of fine-tuning other than the usual one, which the model computes itself."""

from __future__ import annotations

import torch

from gym_policy.logprobs import tempered_logprobs

_IGNORED = -100


def dft_loss(
    logits: torch.Tensor, labels: torch.Tensor, num_items: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Dynamic fine-tuning (DFT, arXiv 2508.05629, equation 9): the negative log-likelihood of each
    token weighted by its own probability, through which no gradient flows. A token that the model
    finds unlikely so teaches little, where the usual loss weights it by 1.

    `logits` is (B, T, V), `labels` (B, T) with -100 where nothing is learned. The sum is divided by
    `num_items`, the number of learned tokens of the whole batch, over all of its parts and ranks;
    None: by those here.
    """
    labels = labels[:, 1:]
    learned = labels != _IGNORED
    # Logits of learned tokens only: prompts are most of a dialogue.
    logprobs = tempered_logprobs(logits[:, :-1][learned], temperature=1.0)
    chosen = logprobs.gather(-1, labels[learned].unsqueeze(-1)).squeeze(-1)
    # L = - sum_t sg(pi(y_t)) log pi(y_t)
    total = -(chosen.detach().exp() * chosen).sum()
    return total / (learned.sum().clamp(min=1) if num_items is None else num_items)
