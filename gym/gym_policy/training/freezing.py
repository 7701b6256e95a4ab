"""What of a model text, or text with an image, passes through: the rest is not trained on it; and
whether it comes out as expected.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from transformers import PreTrainedModel

from gym_dialogue.errors import InputError
from gym_policy.renderer import Rendered
from gym_policy.vision import image_inputs, join_pictures


def freeze_unreached(model: PreTrainedModel, example: Rendered | None = None) -> int:
    """Freeze the parameters without effect on what is said to text (the vision part of a model that
    is fed text only), so that no optimizer state is spent on them; or to text and to an `example`
    with an image. Returns how many parameters.
    """
    with torch.enable_grad():
        reached = _leaves(model(input_ids=some_tokens(model), use_cache=False).logits)
        if example is not None and example.picture is not None:
            ids = torch.tensor([example.token_ids], device=model.device)
            picture = replace(example.picture, features=None)
            images = join_pictures([picture], [example.image_at], model.device)
            seen = image_inputs(model, ids, images)
            reached |= _leaves(model(input_ids=ids, use_cache=False, **seen).logits)
    frozen = [p for p in model.parameters() if id(p) not in reached and p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return sum(getattr(p, "ds_numel", p.numel()) for p in frozen)


def _leaves(result: torch.Tensor) -> set[int]:
    """Ids of the parameters that a result has a gradient for. The graph is walked, not computed:
    gradients would take as much memory as the model.
    """
    leaves: set[int] = set()
    waiting, met = [result.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in met:
            continue
        met.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        waiting += [following for following, _ in node.next_functions]
    return leaves


def some_tokens(model: PreTrainedModel) -> torch.Tensor:
    """Eight token ids (1, 8) to try a model with."""
    vocabulary = model.config.get_text_config().vocab_size
    return torch.arange(8, device=model.device).unsqueeze(0) % vocabulary


@torch.no_grad()
def check_linear_head(model: PreTrainedModel) -> None:
    """Raises InputError if logits are not the output embeddings of the body's last hidden state
    (some architectures scale or cap them), which all that scores tokens by them relies on.
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
