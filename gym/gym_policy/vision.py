"""Images for models with a vision part: what the processor makes of one, and what the forward pass
and sampling take of a batch of them.

Two kinds of models are told apart. Mllama (Llama-3.2-Vision) attends from some of its decoder
layers to the image; in others the image's features stand in the token sequence, in the place of
tokens that the processor leaves free for them (LLaVA and most others).

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
"""The images of a padded batch: `rows` (n,), the dialogue that each belongs to; `starts` (n,), the
position of its first image token there; and the tensors of their pictures, joined."""

FEATURES = "features"
_PLACES = ("rows", "starts")
_ENCODED_TOGETHER = 16


@dataclass
class Picture:
    """One image as a model takes it: the processor's tensors, with a first axis that batches join.

    `features`, once computed, is the output of the vision tower, which outlives an update where the
    tower is frozen. Equal images have equal digests.
    """

    tensors: dict[str, torch.Tensor]
    features: torch.Tensor | None = None
    digest: bytes = b""


def read_prompt(processor: ProcessorMixin, text: str, image: Image) -> tuple[list[int], Picture]:
    """(token ids of a rendered prompt with one image in it, the image as the model takes it).

    Raises InputError where the prompt's template has left no place for the image.
    """
    if processor.image_token not in text:
        raise InputError(
            f"the chat template leaves no place for an image ({processor.image_token} is not in "
            "the prompt that it writes): use a checkpoint whose template knows images"
        )
    opened = open_image(image)
    images, names = [opened], processor.image_processor.model_input_names
    if isinstance(processor, MllamaProcessor):  # one token an image: the text stays as it is
        found = dict(processor.image_processor(images=images, return_tensors="pt"))
        found["input_ids"] = processor.tokenizer([text], add_special_tokens=False)["input_ids"]
        names = [name for name in names if name != "num_tiles"]
    else:
        found = processor(images=images, text=[text], add_special_tokens=False, return_tensors="pt")
    digest = hashlib.blake2b(str(opened.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(opened))
    return list(map(int, found["input_ids"][0])), Picture(
        {k: found[k] for k in names if k in found}, digest=digest.digest()
    )


def first_image_token(processor: ProcessorMixin, token_ids: Sequence[int]) -> int:
    """The position of the first token that stands for an image."""
    return token_ids.index(processor.tokenizer.convert_tokens_to_ids(processor.image_token))


def attends_to_images(model: PreTrainedModel) -> bool:
    """Whether decoder layers attend to the image, as in Mllama."""
    return bool(getattr(model.config.get_text_config(), "cross_attention_layers", None))


def image_token_id(model: PreTrainedModel) -> int | None:
    """The token that stands for an image, if the model could say it. In a reply it would be taken
    for a second image.
    """
    names = ("image_token_id", "image_token_index")
    found = next((getattr(model.config, n) for n in names if hasattr(model.config, n)), None)
    vocabulary = model.config.get_text_config().vocab_size
    return found if found is not None and found < vocabulary else None


def join_pictures(
    pictures: Sequence[Picture | None], starts: Sequence[int | None], device: Any
) -> Images | None:
    """The images of a batch, one or none a dialogue; None if there are none at all."""
    rows = [row for row, picture in enumerate(pictures) if picture is not None]
    if not rows:
        return None
    mine = [pictures[row] for row in rows]
    tensors = [p.tensors for p in mine]
    if all(p.features is not None for p in mine):
        # Which tiles are padding is still asked for; the pixels are not.
        kept = [{k: v for k, v in t.items() if k != "pixel_values"} for t in tensors]
        tensors = [t | {FEATURES: p.features} for t, p in zip(kept, mine, strict=True)]
    try:
        joined = {name: torch.cat([t[name] for t in tensors]) for name in tensors[0]}
    except RuntimeError as error:
        raise InputError(
            f"images of a batch differ in shape ({error}): give all of them one resolution"
        ) from error
    places = {"rows": rows, "starts": [starts[row] for row in rows]}
    found = {name: torch.tensor(value) for name, value in places.items()} | joined
    return {name: tensor.to(device) for name, tensor in found.items()}


def image_inputs(
    model: PreTrainedModel, input_ids: torch.Tensor, images: Images | None
) -> dict[str, torch.Tensor]:
    """What the forward pass of a model takes for the images of a batch, beside `input_ids` (B, T).
    Gradients reach whatever of the vision part is trained. Raises InputError for a model without
    one.
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
    """The same for `generate`. What the decoder's layers read of the image is put into `cache`
    beforehand, so that it is there once for all tokens.
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


def blank(picture: Picture, length: int) -> Images:
    """A black image for a batch of T = `length` that has none, which is not seen: with it, every
    rank of DeepSpeed runs the same layers. Of a model that attends to images.
    """
    tensors = {name: torch.zeros_like(t) for name, t in picture.tensors.items()}
    for name in ("aspect_ratio_ids", "aspect_ratio_mask"):
        tensors[name] = picture.tensors[name]
    return join_pictures([Picture(tensors)], [length], "cpu")


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Let a backward pass compute each layer's activations again instead of keeping them; those of
    Mllama's vision tower too, whose layers transformers leaves out.
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


def encode_pictures(model: PreTrainedModel, pictures: Sequence[Picture]) -> None:
    """Compute the features of pictures that have none yet, where the model keeps them apart from
    its decoder. They are kept in main memory.
    """
    if not attends_to_images(model):
        return
    known = {p.digest: p.features for p in pictures if p.features is not None}
    new = list({p.digest: p for p in pictures if p.digest not in known}.values())
    # Some at a time: the tower's attention mask alone grows with the square of the positions.
    for first in range(0, len(new), _ENCODED_TOGETHER):
        part = new[first : first + _ENCODED_TOGETHER]
        joined = join_pictures(part, [0] * len(part), model.device)
        with torch.no_grad():
            found = _tower(model, joined).cpu()
        for picture, features in zip(part, found.split(1), strict=True):
            picture.features = known[picture.digest] = features.clone()
    for picture in pictures:
        if picture.features is None:
            picture.features = known[picture.digest]


def _tower(model: PreTrainedModel, images: Images) -> torch.Tensor:
    """The vision tower's output (n, 1, tiles, patches, width)."""
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
    """(states (B, S, H) that the decoder attends to, mask (B, T, 1, tiles)): a token attends to its
    dialogue's image from the image token on.

    A dialogue without an image gets states of zeros. Keys, values and outputs are linear without
    bias, so its tokens get zeros out of the layers that attend to images, which is what they get in
    a batch without any image, where these layers are passed over.
    """
    projector: nn.Linear = model.model.multi_modal_projector
    projected = projector(_tower(model, images).to(projector.weight.dtype))
    projected = projected.reshape(len(projected), -1, projected.shape[-1])
    batch, length = input_ids.shape
    tiles = images["aspect_ratio_mask"].shape[-1]
    # An image that starts beyond the sequence is not there: it keeps ranks in step (`blank`).
    projected = projected * (images["starts"] < length)[:, None, None]
    positions = torch.arange(length, device=input_ids.device)
    states = projected.new_zeros(batch, *projected.shape[1:])
    states = states.index_copy(0, images["rows"], projected)
    sees = positions >= images["starts"].unsqueeze(1)  # (n, T)
    mask = sees[:, :, None, None] & (images["aspect_ratio_mask"] > 0)[:, None]
    whole = torch.zeros(batch, length, 1, tiles, dtype=torch.long, device=input_ids.device)
    return states, whole.index_copy(0, images["rows"], mask.long())
