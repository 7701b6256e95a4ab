"""A key-value cache that grows in place.

The default cache of `generate` copies all keys and values for each new token. On two CPU cores this
took longer than the matrix products of a tiny model.
"""

from __future__ import annotations

import torch
from transformers import Cache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


class GrowingLayer(DynamicLayer):
    """Keys and values (B, heads, length, head_dim) as views of larger buffers."""

    SPARE = 64  # positions allocated ahead

    _buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    @classmethod
    def of(
        cls, keys: torch.Tensor, values: torch.Tensor, length: int | None = None
    ) -> GrowingLayer:
        """Return a layer with these buffers; `length` positions are in use (default: all)."""
        layer = cls()
        layer.lazy_initialization(keys, values)
        layer._buffers = (keys, values)
        layer.keys, layer.values = keys[:, :, :length], values[:, :, :length]
        return layer

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = self.get_seq_length()
        needed = length + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < needed:
            self._buffers = tuple(
                _larger(old, new, length, needed + self.SPARE)
                for old, new in ((self.keys, key_states), (self.values, value_states))
            )
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, length:needed] = new
        self.keys, self.values = (buffer[:, :, :needed] for buffer in self._buffers)
        return self.keys, self.values

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Keep only these rows (n,) of the batch."""
        length = self.get_seq_length()
        self._buffers = tuple(
            _larger(part[rows], part, length, length + self.SPARE)
            for part in (self.keys, self.values)
        )
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)


def _larger(old: torch.Tensor, like: torch.Tensor, length: int, capacity: int) -> torch.Tensor:
    rows = old.shape[0] if length else like.shape[0]
    buffer = like.new_empty(rows, like.shape[1], capacity, like.shape[-1])
    if length:
        buffer[:, :, :length] = old
    return buffer


def make_cache(config: PreTrainedConfig) -> Cache | None:
    """Return an empty cache for a model whose layers attend to all earlier tokens or to an image.
    For other models return None, which leaves the choice to `generate`.
    """
    text = config.get_text_config()
    types = set(getattr(text, "layer_types", None) or ["full_attention"])
    if types != {"full_attention"} or getattr(text, "sliding_window", None):
        return None
    return Cache(layer_class_to_replicate=GrowingLayer)
