"""What of a model text, or text with an image, passes through: the rest is not trained on it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn
from transformers import PreTrainedModel

from gym_policy.renderer import Rendered
from gym_policy.vision import image_inputs, join_pictures


def freeze_unreached(model: PreTrainedModel, example: Rendered | None = None) -> int:
    """Freeze the parameters that text does not pass through (the vision part of a model that is
    fed text only), so that no optimizer state is spent on them; or those that an `example` with an
    image does not pass through either. Returns how many parameters.
    """
    reached: set[int] = set()

    def note(module: nn.Module, *_: object) -> None:
        reached.update(id(p) for p in module.parameters(recurse=False))

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    with torch.no_grad():
        model(input_ids=some_tokens(model), use_cache=False)
        if example is not None and example.picture is not None:
            ids = torch.tensor([example.token_ids], device=model.device)
            picture = replace(example.picture, features=None)
            images = join_pictures([picture], [example.image_at], model.device)
            model(input_ids=ids, use_cache=False, **image_inputs(model, ids, images))
    for hook in hooks:
        hook.remove()
    frozen = [p for p in model.parameters() if id(p) not in reached and p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return sum(getattr(p, "ds_numel", p.numel()) for p in frozen)


def some_tokens(model: PreTrainedModel) -> torch.Tensor:
    """Eight token ids (1, 8) to try a model with."""
    vocabulary = model.config.get_text_config().vocab_size
    return torch.arange(8, device=model.device).unsqueeze(0) % vocabulary
