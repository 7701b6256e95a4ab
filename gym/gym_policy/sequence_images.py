"""Images whose features stand in the token sequence, in the place of image tokens: as in LLaVA,
Qwen-VL, Gemma 3, Idefics 3, SmolVLM and InternVL, and unlike Mllama.

What a model makes of an image comes from its own `get_image_features`, and is handed to its forward
pass as `mm_encoder_outputs`. Nothing here knows which model it is: what else a forward pass wants
to know of images, such as which tokens are theirs, is told by its signature.

Axes: B dialogues, T positions, n images, S image tokens of one image, H the decoder's width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from gym_policy.parts import part_of

Tensors = Mapping[str, torch.Tensor]
"""Of a dialogue's images: what the processor gave; or, under the names below, what the model made
of them."""

EACH = "each"
"""The key of a batch's images under which the tensors of each are listed."""

ENCODED_TOGETHER = 16
"""Images that are encoded at once: more take more memory."""

_LISTED, _STACKED, _DEEP = "features/listed", "features/stacked", "features/deep/"
_PIXELS = ("pixel_values", "pixel_attention_mask")
_TYPES = ("mm_token_type_ids", "token_type_ids")


@dataclass
class _EncoderOutput(ModelOutput):
    """What `get_image_features` returns, as far as a forward pass uses it."""

    pooler_output: Any = None
    deepstack_features: Any = None


def body_of(model: PreTrainedModel) -> nn.Module:
    """Return the model without its head."""
    return getattr(model, model.base_model_prefix)


def _arguments(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def takes_features(model: PreTrainedModel) -> bool:
    """Return whether a forward pass takes features that were computed before it."""
    return "mm_encoder_outputs" in _arguments(body_of(model).forward)


def image_token(config: PreTrainedConfig) -> int:
    """Return the token that stands for a feature of an image."""
    names = ("image_token_id", "image_token_index")
    return next(getattr(config, n) for n in names if hasattr(config, n))


def is_frozen(model: PreTrainedModel) -> bool:
    """Return whether nothing that features depend on is trained: the tower and the projector."""
    return not any(
        p.requires_grad and part_of(n) != "language" for n, p in model.named_parameters()
    )


def encode(model: PreTrainedModel, images: Sequence[Tensors]) -> list[Tensors]:
    """Return the features of images, in order, under names that `sequence_inputs` knows."""
    accepted = _arguments(model.get_image_features)
    encoded: list[Tensors] = []
    for run in _alike(images):
        joined = {k: torch.cat([image[k] for image in run]) for k in run[0] if k in accepted}
        output = model.get_image_features(**joined, return_dict=True)
        encoded += _split(output, len(run))
    return encoded


def _alike(images: Sequence[Tensors]) -> Iterator[list[Tensors]]:
    """Yield runs of images with tensors of the same shapes."""
    run: list[Tensors] = []
    for image in images:
        is_alike = run and all(image[name].shape == run[0][name].shape for name in run[0])
        if run and (not is_alike or len(run) == ENCODED_TOGETHER):
            yield run
            run = []
        run.append(image)
    if run:
        yield run


def _split(output: ModelOutput, count: int) -> list[Tensors]:
    """Return the parts of an encoder's output that belong to each of `count` dialogues, which have
    equally many images.
    """
    pooled = output.pooler_output
    if isinstance(pooled, torch.Tensor):  # (n x tiles, S, H)
        parts: list[dict[str, torch.Tensor]] = [{_STACKED: part} for part in pooled.chunk(count)]
    else:  # a list of (S, H)
        parts = [{_LISTED: part} for part in _by_dialogue(pooled, count)]
    for number, layer in enumerate(getattr(output, "deepstack_features", None) or ()):
        for part, features in zip(parts, _by_dialogue(layer, count), strict=True):
            part[f"{_DEEP}{number}"] = features
    return list(parts)


def _by_dialogue(features: Sequence[torch.Tensor], count: int) -> list[torch.Tensor]:
    each = len(features) // count
    return [torch.cat([*features[i * each : (i + 1) * each]]) for i in range(count)]


def without_pixels(tensors: Tensors) -> Tensors:
    """Return what a forward pass needs of an image beside its features."""
    return {name: tensor for name, tensor in tensors.items() if name not in _PIXELS}


def sequence_inputs(
    model: PreTrainedModel, input_ids: torch.Tensor, images: Sequence[Tensors]
) -> dict[str, Any]:
    """Return the forward arguments for the images of a batch, in the order of their tokens in
    `input_ids` (B, T). Images without features are encoded, with gradients where something is
    trained that features depend on.
    """
    accepted = _arguments(body_of(model).forward)
    inputs: dict[str, Any] = {}
    if "mm_encoder_outputs" in accepted:
        if not all(_LISTED in image or _STACKED in image for image in images):
            with torch.no_grad() if is_frozen(model) else nullcontext():
                features = encode(model, images)
            images = [{**image, **f} for image, f in zip(images, features, strict=True)]
        inputs["mm_encoder_outputs"] = {"image": _joined(images)}
        images = [without_pixels(image) for image in images]
    inputs |= {
        name: torch.cat([image[name] for image in images]) for name in images[0] if name in accepted
    }
    sees = (input_ids == image_token(model.config)).int()
    return inputs | {name: sees for name in _TYPES if name in accepted}


def _joined(images: Sequence[Tensors]) -> ModelOutput:
    pooled: Any = [image[_LISTED] for image in images if _LISTED in image]
    if not pooled:
        pooled = torch.cat([image[_STACKED] for image in images])
    layers = sorted(
        (k for k in images[0] if k.startswith(_DEEP)), key=lambda k: int(k[len(_DEEP) :])
    )
    deep = [[image[name] for image in images] for name in layers]
    return _EncoderOutput(pooler_output=pooled, deepstack_features=deep or None)


def positions(
    model: PreTrainedModel, token_ids: np.ndarray, tensors: Tensors | None
) -> tuple[np.ndarray, int]:
    """Return the positions (axes, T) of a dialogue's tokens, and that of the next token. With an
    image, models with positions of several axes (Qwen-VL) say themselves where its tokens are.
    """
    body = body_of(model)
    if tensors is None or not hasattr(body, "get_rope_index"):
        return np.arange(len(token_ids))[None], len(token_ids)
    ids = torch.from_numpy(np.asarray(token_ids)).unsqueeze(0)
    grids = {name: tensor.cpu() for name, tensor in tensors.items() if name.endswith("grid_thw")}
    sees = (ids == image_token(model.config)).int()
    places, ahead = body.get_rope_index(ids, mm_token_type_ids=sees, **grids)
    return places[:, 0].numpy(), len(token_ids) + int(ahead)
