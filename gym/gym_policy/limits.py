"""What a model can take: which tokens, how many of them, and whether its weights are numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from gym_dialogue.errors import InputError


def check_sequence(
    model: PreTrainedModel,
    token_ids: Sequence[int],
    what: str,
    max_new_tokens: int = 0,
    of_image: int = 0,
) -> None:
    """Raises InputError for tokens without a row in the model's embedding, and for more positions
    than it has, those of `max_new_tokens` to come and of an image that is not among `token_ids`
    included. `what` opens the line.
    """
    embedding = model.get_input_embeddings()
    rows = getattr(embedding, "base_layer", embedding).num_embeddings
    largest = max(token_ids, default=0)
    if largest >= rows:
        raise InputError(
            f"{what} has the token {largest}, and the model's embedding ends at {rows - 1}: the "
            "tokenizer (or its chat template) is of another model; resize the model's embedding, "
            "or choose the tokenizer that belongs to it"
        )
    positions, count = max_positions(model.config), len(token_ids) + of_image
    needed = count + max_new_tokens
    if positions is not None and needed > positions:
        new = f" and {max_new_tokens} of a reply (max_new_tokens)" if max_new_tokens else ""
        raise InputError(
            f"{what} has {count} tokens{new}, and the model {positions} positions "
            "(max_position_embeddings): choose shorter prompts, fewer turns or lower "
            "max_new_tokens, or another model"
        )


def max_positions(config: PreTrainedConfig) -> int | None:
    """Return how many tokens a model is made for; None if it does not say."""
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if not isinstance(positions, int):
        return None
    rope = getattr(text, "rope_parameters", None) or {}
    factor, original = rope.get("factor"), rope.get("original_max_position_embeddings")
    if factor and original:  # stretched: some configurations keep the number of before
        positions = max(positions, int(factor * original))
    return positions


@torch.no_grad()
def not_numbers(model: torch.nn.Module) -> str | None:
    """Return the name of a weight that is not all finite numbers, or None. Under ZeRO-3, of this
    rank's part.
    """
    for name, parameter in model.named_parameters():
        values = getattr(parameter, "ds_tensor", parameter) if not parameter.numel() else parameter
        if not values.is_floating_point() or not values.numel():
            continue
        if not all(map(torch.isfinite, torch.aminmax(values))):
            return name
    return None
