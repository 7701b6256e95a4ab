"""Merges an adapter into its base's weights: `python -m gym_policy.models.merge CHECKPOINT OUT`."""

from __future__ import annotations

import sys
from pathlib import Path

from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from gym_dialogue.errors import InputError
from gym_policy.models.adapter import CONFIG_FILE, base_of, load_adapted
from gym_policy.models.load import load_model, load_renderer, save_renderer
from gym_policy.ties import untie


def merge(directory: str, out: str) -> None:
    """Write a model that is the base with the adapter's change added to its weights."""
    if not (Path(directory) / CONFIG_FILE).is_file():
        raise InputError(f"adapter {directory}: holds no {CONFIG_FILE}")
    if (Path(out) / "config.json").exists():
        raise InputError(f"{out}: already holds a model; name another directory")
    base = load_model(base_of(directory))
    adapted = load_adapted(base, directory)
    _untie(adapted.get_base_model())
    merged = adapted.merge_and_unload()
    try:
        merged.save_pretrained(out)
        save_renderer(load_renderer(directory), out)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{out}: cannot be written: {error}") from error
    print(f"Merged into {out}")


def _untie(model: PreTrainedModel) -> None:
    """Give head and embedding weights of their own where they share them and an adapter is on one:
    a change merged into it would change the other too.
    """
    modules = model.get_output_embeddings(), model.get_input_embeddings()
    head, embedding = (getattr(module, "base_layer", module) for module in modules)
    if head is None or head.weight is not embedding.weight:
        return
    if not any(isinstance(module, BaseTunerLayer) for module in modules):
        return
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    untie(model)


def main() -> None:
    """Run the command."""
    if len(sys.argv) != 3 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m gym_policy.models.merge CHECKPOINT OUT")
    try:
        merge(sys.argv[1], sys.argv[2])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
