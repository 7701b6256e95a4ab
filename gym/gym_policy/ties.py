"""Output heads that are the embedding: told apart where a change is to reach one of them alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel


def untie(model: PreTrainedModel) -> None:
    """Have a model's configuration say that its output head has weights of its own."""
    model.all_tied_weights_keys = {}
    for config in (model.config, model.config.get_text_config()):  # which may be the same
        config.tie_word_embeddings = False


@contextmanager
def untied(model: PreTrainedModel) -> Iterator[None]:
    """Untie for a while, to save a model with its head though it is the embedding."""
    keys = getattr(model, "all_tied_weights_keys", {})
    configs = (model.config, model.config.get_text_config())
    ties = [config.tie_word_embeddings for config in configs]
    untie(model)
    try:
        yield
    finally:
        model.all_tied_weights_keys = keys
        for config, tie in zip(configs, ties, strict=True):
            config.tie_word_embeddings = tie
