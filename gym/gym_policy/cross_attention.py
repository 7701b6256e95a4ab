"""Images of models whose decoder layers cross-attend to them: Mllama (Llama-3.2-Vision).

Axes: B dialogues, T positions, n images, S positions of an image's features, H the decoder's width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

FEATURES = "features"
"""The vision tower's output, in the place of pixels."""

Batch = Mapping[str, torch.Tensor]
"""`rows` (n,), the dialogue of each image; `starts` (n,), the position of its token there; and the
joined tensors of the processed images."""


def attends_to_images(model: PreTrainedModel) -> bool:
    """Return whether decoder layers cross-attend to images, as in Mllama."""
    return bool(getattr(model.config.get_text_config(), "cross_attention_layers", None))


def is_tower_frozen(model: PreTrainedModel) -> bool:
    """Return whether nothing of the vision tower is trained."""
    return not any(p.requires_grad for p in model.model.vision_model.parameters())


def tower(model: PreTrainedModel, images: Batch) -> torch.Tensor:
    """Return the vision tower's output (n, 1, tiles, patches, width)."""
    if FEATURES in images:
        return images[FEATURES]
    module: nn.Module = model.model.vision_model
    with torch.no_grad() if is_tower_frozen(model) else nullcontext():
        return module(
            pixel_values=images["pixel_values"],
            aspect_ratio_ids=images["aspect_ratio_ids"],
            aspect_ratio_mask=images["aspect_ratio_mask"],
        ).last_hidden_state


def states_and_mask(
    model: PreTrainedModel, input_ids: torch.Tensor, images: Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the states (B, S, H) that the decoder attends to, and the mask (B, T, 1, tiles): the
    image token and all tokens after it attend to their dialogue's image.

    A dialogue without an image gets states of zeros. Keys, values and outputs are linear without
    bias, so cross-attention layers then add zeros: the same as in a batch without images, for which
    these layers are skipped.
    """
    projector: nn.Linear = model.model.multi_modal_projector
    projected = projector(tower(model, images).to(projector.weight.dtype))
    projected = projected.reshape(len(projected), -1, projected.shape[-1])
    batch, length = input_ids.shape
    tiles = images["aspect_ratio_mask"].shape[-1]
    # An image that starts beyond the sequence (`vision.blank`) must have no effect.
    projected = projected * (images["starts"] < length)[:, None, None]
    positions = torch.arange(length, device=input_ids.device)
    states = projected.new_zeros(batch, *projected.shape[1:])
    states = states.index_copy(0, images["rows"], projected)
    sees = positions >= images["starts"].unsqueeze(1)  # (n, T)
    mask = sees[:, :, None, None] & (images["aspect_ratio_mask"] > 0)[:, None]
    whole = torch.zeros(batch, length, 1, tiles, dtype=torch.long, device=input_ids.device)
    return states, whole.index_copy(0, images["rows"], mask.long())


def fill_cache(model: PreTrainedModel, states: torch.Tensor, cache: Cache) -> None:
    """Put the decoder's keys and values of images into a cache, so that they are computed once and
    not for each token.
    """
    layers = model.get_decoder().layers
    for index in model.config.get_text_config().cross_attention_layers:
        attention = layers[index].cross_attn
        heads = (*states.shape[:2], attention.num_key_value_heads, attention.head_dim)
        keys = attention.k_norm(attention.k_proj(states).view(heads).transpose(1, 2))
        values = attention.v_proj(states).view(heads).transpose(1, 2)
        cache.update(keys, values, index)


def checkpoint_tower(model: PreTrainedModel) -> None:
    """Turn on activation checkpointing in the vision tower, which transformers leaves out."""
    module = model.model.vision_model
    for layer in (*module.transformer.layers, *module.global_transformer.layers):
        if not isinstance(layer, GradientCheckpointingLayer):
            layer.forward = _checkpointed(layer, layer.forward)


def _checkpointed(layer: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not (layer.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run
