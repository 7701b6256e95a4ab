"""Images for vision-language models: processing one, and the inputs that a batch of them gives to
the forward pass and to sampling.

There are two kinds of models. In Mllama (Llama-3.2-Vision), some decoder layers cross-attend to the
image. In most others, such as LLaVA, image features replace placeholder tokens in the sequence.

Axes: B dialogues, T positions, n images, S positions of an image's features, H the decoder's width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache, MllamaProcessor, PreTrainedModel, ProcessorMixin
from transformers.modeling_layers import GradientCheckpointingLayer

from gym_dialogue.errors import InputError
from gym_dialogue.images import Image, open_image

Images = Mapping[str, torch.Tensor]
"""The images of a padded batch: `rows` (n,), the dialogue of each; `starts` (n,), the position of
its first image token there; and the joined tensors of the processed images."""

FEATURES = "features"
_PLACES = ("rows", "starts")
_ENCODED_TOGETHER = 16


@dataclass
class ProcessedImage:
    """One image as a model takes it: the processor's tensors, to be joined along their first axis.

    `features` is the vision tower's output, once computed; with a frozen tower it stays valid over
    updates. Equal images have equal digests.
    """

    tensors: dict[str, torch.Tensor]
    features: torch.Tensor | None = None
    digest: bytes = b""


def read_prompt(
    processor: ProcessorMixin, text: str, image: Image
) -> tuple[list[int], ProcessedImage]:
    """Tokenize a rendered prompt that holds one image, and process the image.

    Raises InputError if the chat template has left no place for the image.
    """
    if processor.image_token not in text:
        raise InputError(
            f"the chat template leaves no place for an image ({processor.image_token} is not in "
            "the prompt that it writes): use a checkpoint whose template knows images"
        )
    opened = open_image(image)
    images, names = [opened], processor.image_processor.model_input_names
    if isinstance(processor, MllamaProcessor):  # one token per image: the text stays as it is
        inputs = dict(processor.image_processor(images=images, return_tensors="pt"))
        inputs["input_ids"] = processor.tokenizer([text], add_special_tokens=False)["input_ids"]
        names = [name for name in names if name != "num_tiles"]
    else:
        inputs = processor(
            images=images, text=[text], add_special_tokens=False, return_tensors="pt"
        )
    digest = hashlib.blake2b(str(opened.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(opened))
    tensors = {name: inputs[name] for name in names if name in inputs}
    token_ids = list(map(int, inputs["input_ids"][0]))
    return token_ids, ProcessedImage(tensors, digest=digest.digest())


def first_image_token(processor: ProcessorMixin, token_ids: Sequence[int]) -> int:
    """Return the position of the first image token."""
    return token_ids.index(processor.tokenizer.convert_tokens_to_ids(processor.image_token))


def attends_to_images(model: PreTrainedModel) -> bool:
    """Return whether decoder layers cross-attend to images, as in Mllama."""
    return bool(getattr(model.config.get_text_config(), "cross_attention_layers", None))


def image_token_id(model: PreTrainedModel) -> int | None:
    """Return the image token if the model has a logit for it, else None. It has to be suppressed
    while sampling: in a reply it would count as a second image.
    """
    names = ("image_token_id", "image_token_index")
    token = next((getattr(model.config, n) for n in names if hasattr(model.config, n)), None)
    vocabulary = model.config.get_text_config().vocab_size
    return token if token is not None and token < vocabulary else None


def join_images(
    images: Sequence[ProcessedImage | None], starts: Sequence[int | None], device: Any
) -> Images | None:
    """Join the images of a batch, at most one per dialogue; return None if there are none.

    Raises InputError for images of different shapes.
    """
    rows = [row for row, image in enumerate(images) if image is not None]
    if not rows:
        return None
    present = [image for image in images if image is not None]
    tensors = [image.tensors for image in present]
    if all(image.features is not None for image in present):
        # The mask of padding tiles is still needed; the pixels are not.
        kept = [{k: v for k, v in t.items() if k != "pixel_values"} for t in tensors]
        tensors = [t | {FEATURES: i.features} for t, i in zip(kept, present, strict=True)]
    try:
        joined = {name: torch.cat([t[name] for t in tensors]) for name in tensors[0]}
    except RuntimeError as error:
        raise InputError(
            f"images of a batch differ in shape ({error}): give all of them one resolution"
        ) from error
    places = {"rows": rows, "starts": [starts[row] for row in rows]}
    batch = {name: torch.tensor(value) for name, value in places.items()} | joined
    return {name: tensor.to(device) for name, tensor in batch.items()}


def image_inputs(
    model: PreTrainedModel, input_ids: torch.Tensor, images: Images | None
) -> dict[str, torch.Tensor]:
    """Return the forward arguments for the images of a batch, beside `input_ids` (B, T). Gradients
    reach the trained parameters of the vision part. Raises InputError for a text-only model.
    """
    if images is None:
        return {}
    if not hasattr(model.config, "vision_config"):
        raise InputError(f"model type {model.config.model_type}: reads text only, and got an image")
    if not attends_to_images(model):
        return {name: tensor for name, tensor in images.items() if name not in _PLACES}
    states, mask = _cross_attention(model, input_ids, images)
    return {"cross_attention_states": states, "cross_attention_mask": mask}


def generate_inputs(
    model: PreTrainedModel, input_ids: torch.Tensor, images: Images | None, cache: Cache | None
) -> dict[str, torch.Tensor]:
    """Return the same for `generate`. The decoder's keys and values of the image are put into
    `cache` beforehand, so that they are computed once and not for each token.
    """
    if images is None or not attends_to_images(model):
        return image_inputs(model, input_ids, images)
    states, mask = _cross_attention(model, input_ids, images)
    layers = model.get_decoder().layers
    for index in model.config.get_text_config().cross_attention_layers:
        attention = layers[index].cross_attn
        heads = (*states.shape[:2], attention.num_key_value_heads, attention.head_dim)
        keys = attention.k_norm(attention.k_proj(states).view(heads).transpose(1, 2))
        values = attention.v_proj(states).view(heads).transpose(1, 2)
        cache.update(keys, values, index)
    return {"cross_attention_mask": mask}


def blank(like: ProcessedImage, length: int) -> Images:
    """Return a black image, with the shapes of `like`, for a batch of T = `length` without images.

    No token attends to it. It makes all ranks of DeepSpeed run the same layers of a model that
    cross-attends to images.
    """
    tensors = {name: torch.zeros_like(t) for name, t in like.tensors.items()}
    for name in ("aspect_ratio_ids", "aspect_ratio_mask"):
        tensors[name] = like.tensors[name]
    return join_images([ProcessedImage(tensors)], [length], "cpu")


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Turn on activation checkpointing for all layers, those of Mllama's vision tower included,
    which transformers leaves out.
    """
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if not attends_to_images(model):
        return
    tower = model.model.vision_model
    for layer in (*tower.transformer.layers, *tower.global_transformer.layers):
        if not isinstance(layer, GradientCheckpointingLayer):
            layer.forward = _checkpointed(layer, layer.forward)


def _checkpointed(layer: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not (layer.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run


def encode_images(model: PreTrainedModel, images: Sequence[ProcessedImage]) -> None:
    """Compute the missing features of images and keep them in main memory. Does nothing for models
    whose features are part of the token sequence.
    """
    if not attends_to_images(model):
        return
    known = {i.digest: i.features for i in images if i.features is not None}
    new = list({i.digest: i for i in images if i.digest not in known}.values())
    # In chunks: the tower's attention mask alone grows with the square of the positions.
    for first in range(0, len(new), _ENCODED_TOGETHER):
        chunk = new[first : first + _ENCODED_TOGETHER]
        joined = join_images(chunk, [0] * len(chunk), model.device)
        with torch.no_grad():
            encoded = _tower(model, joined).cpu()
        for image, features in zip(chunk, encoded.split(1), strict=True):
            image.features = known[image.digest] = features.clone()
    for image in images:
        if image.features is None:
            image.features = known[image.digest]


def _tower(model: PreTrainedModel, images: Images) -> torch.Tensor:
    """Return the vision tower's output (n, 1, tiles, patches, width)."""
    if FEATURES in images:
        return images[FEATURES]
    tower: nn.Module = model.model.vision_model
    is_frozen = not any(p.requires_grad for p in tower.parameters())
    with torch.no_grad() if is_frozen else nullcontext():
        return tower(
            pixel_values=images["pixel_values"],
            aspect_ratio_ids=images["aspect_ratio_ids"],
            aspect_ratio_mask=images["aspect_ratio_mask"],
        ).last_hidden_state


def _cross_attention(
    model: PreTrainedModel, input_ids: torch.Tensor, images: Images
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the states (B, S, H) that the decoder attends to, and the mask (B, T, 1, tiles): the
    image token and all tokens after it attend to their dialogue's image.

    A dialogue without an image gets states of zeros. Keys, values and outputs are linear without
    bias, so cross-attention layers then add zeros: the same as in a batch without images, for which
    these layers are skipped.
    """
    projector: nn.Linear = model.model.multi_modal_projector
    projected = projector(_tower(model, images).to(projector.weight.dtype))
    projected = projected.reshape(len(projected), -1, projected.shape[-1])
    batch, length = input_ids.shape
    tiles = images["aspect_ratio_mask"].shape[-1]
    # An image that starts beyond the sequence (see `blank`) must have no effect.
    projected = projected * (images["starts"] < length)[:, None, None]
    positions = torch.arange(length, device=input_ids.device)
    states = projected.new_zeros(batch, *projected.shape[1:])
    states = states.index_copy(0, images["rows"], projected)
    sees = positions >= images["starts"].unsqueeze(1)  # (n, T)
    mask = sees[:, :, None, None] & (images["aspect_ratio_mask"] > 0)[:, None]
    whole = torch.zeros(batch, length, 1, tiles, dtype=torch.long, device=input_ids.device)
    return states, whole.index_copy(0, images["rows"], mask.long())
