"""Compute as the paper counts it (arXiv 2501.17161): 2 N D to sample D tokens, 6 N D to learn from
them, with N parameters of the model and D tokens of dialogues, prompts and replies, no padding.
"""

from __future__ import annotations

from torch import nn

SAMPLED = 2
"""Floating-point operations for each parameter and each token of a dialogue that is sampled."""
LEARNED = 6
"""The same for one that is learned from: a forward and a backward pass."""


def num_parameters(model: nn.Module, trained_only: bool = False) -> int:
    """Return how many parameters a model has, wherever ZeRO-3 keeps them; or those that are
    trained.
    """
    return sum(
        getattr(parameter, "ds_numel", parameter.numel())
        for parameter in model.parameters()
        if parameter.requires_grad or not trained_only
    )
