"""Count the parameters of a run's model, without allocating them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from gym_policy.models.adapter import add_adapter
from gym_policy.models.architecture import empty_model, text_parameters
from gym_policy.parts import freeze_parts
from rl.actor_critic import ActorCritic
from rl.config import RLConfig


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters. `added` counts what training adds: adapters and the value head."""

    base: int
    base_trained: int
    added: int
    added_trained: int
    matrices: int
    """Base parameters that autocast casts: trained matrices, without the embedding."""
    largest: int
    """Parameters of the largest module, which ZeRO-3 gathers at once."""
    adapted: int = 0
    """Sum of the input widths of all adapters."""
    adapter_ranks: int = 0
    """Sum of the ranks of all adapters."""

    @property
    def total(self) -> int:
        """Return all parameters."""
        return self.base + self.added

    @property
    def trained(self) -> int:
        """Parameters that receive a gradient."""
        return self.base_trained + self.added_trained


def count_parameters(
    architecture: PreTrainedConfig, config: RLConfig, with_images: bool = False
) -> Counts:
    """Return the parameter counts of a run's model, built on the meta device as training builds it.
    Without images, parameters that only images reach are frozen.
    """
    model = empty_model(architecture)
    base = list(model.parameters())  # before adapters join them
    critic = _build(model, config)
    used = model.parameters() if with_images else text_parameters(model)
    trained = {id(p) for p in used if p.requires_grad}
    base_ids = {id(p) for p in base}
    adapters = [p for p in model.parameters() if id(p) not in base_ids]
    base_trained = _selected(base, trained)
    embedding = model.get_input_embeddings().weight
    head = _size(critic.value_head.parameters())
    adapted = _trained_adapters(model, trained)
    return Counts(
        base=_size(base),
        base_trained=_size(base_trained),
        added=_size(adapters) + head,
        added_trained=_size(_selected(adapters, trained))
        + (head if config.algorithm == "ppo" else 0),
        matrices=_size(p for p in base_trained if p.dim() == 2 and p is not embedding),
        largest=max(_size(m.parameters(recurse=False)) for m in critic.modules()),
        adapted=sum(layer.in_features or 0 for layer in adapted),
        adapter_ranks=len(adapted) * config.lora.rank,
    )


def _build(model: PreTrainedModel, config: RLConfig) -> ActorCritic:
    """Add adapters and a value head to an empty model, and freeze what the settings freeze."""
    if config.lora.rank:
        lora = config.lora
        with torch.device("meta"):
            add_adapter(
                model,
                config.model,
                lora.rank,
                lora.alpha,
                lora.dropout,
                lora.targets,
                config.freeze,
            )
    freeze_parts(model, config.freeze)
    return ActorCritic(model, 1.0, tuple(config.ppo.value_hidden))


def _trained_adapters(model: nn.Module, trained: Collection[int]) -> list[LoraLayer]:
    """Return the LoRA layers with a trained matrix; `trained` holds ids of parameters."""
    return [
        module
        for module in model.modules()
        if isinstance(module, LoraLayer)
        and any(id(p) in trained for p in module.lora_A.parameters())
    ]


def _selected(parameters: Iterable[nn.Parameter], ids: Collection[int]) -> list[nn.Parameter]:
    return [p for p in parameters if id(p) in ids]


def _size(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)
