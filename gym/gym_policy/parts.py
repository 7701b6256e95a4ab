"""The parts of a model that see and speak: freezing some of them, and a learning rate for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from torch import nn

from gym_dialogue.errors import InputError

Part = Literal["vision", "projector", "language"]

# What transformers' architectures call them.
_NAMES: dict[Part, tuple[str, ...]] = {
    "vision": ("vision_model", "vision_tower", "visual", "vision_encoder", "image_tower"),
    "projector": (
        *("multi_modal_projector", "connector", "embed_vision"),
        *("merger", "deepstack_merger_list"),  # Qwen-VL
        "image_newline",  # LLaVA-NeXT
    ),
}


def part_of(name: str) -> Part:
    """Return the part that a parameter or module belongs to, by its dotted name."""
    pieces = name.split(".")
    # A projector may lie within the vision module, so it is looked for first.
    for part in ("projector", "vision"):
        if any(piece in _NAMES[part] for piece in pieces):
            return part
    return "language"


def check_parts(model: nn.Module, freeze: Sequence[Part], part_lr: Mapping[Part, float]) -> None:
    """Raises InputError for settings of parts that the model does not have, or that are frozen."""
    has = {part_of(name) for name, _ in model.named_parameters()}
    for part in (*freeze, *part_lr):
        if part not in has:
            raise InputError(
                f"freeze or part_lr: {part}: this model has only {', '.join(sorted(has))}"
            )
    for part, rate in part_lr.items():
        if part in freeze:
            raise InputError(f"part_lr.{part}={rate}: but freeze={list(freeze)}; give one of them")


def freeze_parts(model: nn.Module, parts: Sequence[Part]) -> None:
    """Train nothing of these parts. Raises InputError if nothing is left to train."""
    for name, parameter in model.named_parameters():
        if part_of(name) in parts:
            parameter.requires_grad_(False)
    if parts and not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"freeze={list(parts)}: leaves nothing of this model to train")


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], lr: float, part_lr: Mapping[Part, float]
) -> list[dict[str, Any]]:
    """Return the trained parameters as groups of an optimizer, those of each part with its own
    learning rate, or `lr`, which comes first.
    """
    groups: dict[float, list[nn.Parameter]] = {lr: []}
    for name, parameter in named:
        if parameter.requires_grad:
            groups.setdefault(part_lr.get(part_of(name), lr), []).append(parameter)
    return [{"params": params, "lr": rate} for rate, params in groups.items() if params]


def module_pattern(parts: Sequence[Part]) -> str | None:
    """Return a regular expression that fits the names of all modules of these parts, but for
    language.
    """
    names = [name for part in parts for name in _NAMES.get(part, ())]
    return rf"(.*\.)?({'|'.join(names)})(\..*)?" if names else None
