"""Freezing the parameters that inputs do not reach, and checking how a model computes logits."""

from __future__ import annotations

from dataclasses import replace

import torch
from transformers import PreTrainedModel

from gym_dialogue.errors import InputError
from gym_policy.renderer import Rendered
from gym_policy.vision import image_inputs, join_images


def freeze_unreached(model: PreTrainedModel, example: Rendered | None = None) -> int:
    """Freeze the parameters that affect neither the logits of text nor those of an `example` with
    an image, so that they take no optimizer state. Return their number.

    For text alone, these are the parameters of the vision part.
    """
    with torch.enable_grad():
        reached = _leaves(model(input_ids=some_tokens(model), use_cache=False).logits)
        if example is not None and example.processed_image is not None:
            ids = torch.tensor([example.token_ids], device=model.device)
            # Without features, so that the vision tower takes part.
            processed_image = replace(example.processed_image, features=None)
            images = join_images([processed_image], [example.image_at], model.device)
            arguments = image_inputs(model, ids, images)
            reached |= _leaves(model(input_ids=ids, use_cache=False, **arguments).logits)
    frozen = [p for p in model.parameters() if id(p) not in reached and p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return sum(getattr(p, "ds_numel", p.numel()) for p in frozen)


def _leaves(result: torch.Tensor) -> set[int]:
    """Return ids of the parameters that a result depends on. The autograd graph is walked, without
    computing gradients, which would take as much memory as the model.
    """
    leaves: set[int] = set()
    waiting, visited = [result.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        waiting += [following for following, _ in node.next_functions]
    return leaves


def some_tokens(model: PreTrainedModel) -> torch.Tensor:
    """Return eight token ids (1, 8) to try a model with."""
    vocabulary = model.config.get_text_config().vocab_size
    return torch.arange(8, device=model.device).unsqueeze(0) % vocabulary


@torch.no_grad()
def check_linear_head(model: PreTrainedModel) -> None:
    """Raise InputError unless the logits are the output layer applied to the body's last hidden
    state, as scoring assumes. Some architectures scale or cap them.
    """
    ids = some_tokens(model)
    body = getattr(model, model.base_model_prefix)
    hidden = body(input_ids=ids, use_cache=False).last_hidden_state
    logits = model(input_ids=ids, use_cache=False).logits
    if not torch.allclose(model.get_output_embeddings()(hidden), logits, atol=1e-3, rtol=1e-3):
        raise InputError(
            f"model type {model.config.model_type}: its logits are not a plain linear head on its "
            "last hidden state, which scoring tokens needs; choose another architecture"
        )
