"""Images for vision-language models: processing one, and the inputs that a batch of them gives to
the forward pass and to sampling.

There are two kinds of models. In Mllama (Llama-3.2-Vision), some decoder layers cross-attend to the
image (`cross_attention`). In all others image features stand in the place of image tokens in the
sequence (`sequence_images`).

Axes: B dialogues, T positions, n images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from accelerate.utils import send_to_device
from transformers import Cache, MllamaProcessor, PreTrainedModel, ProcessorMixin

from gym_dialogue.errors import InputError, one_line
from gym_dialogue.images import Image, open_images
from gym_policy.cross_attention import (
    FEATURES,
    attends_to_images,
    checkpoint_tower,
    fill_cache,
    is_tower_frozen,
    states_and_mask,
    tower,
)
from gym_policy.sequence_images import (
    EACH,
    ENCODED_TOGETHER,
    encode,
    image_token,
    is_frozen,
    sequence_inputs,
    takes_features,
    without_pixels,
)

Images = Mapping[str, Any]
"""The images of a padded batch, for either kind of model: `rows` (n,), the dialogue of each, and
`starts` (n,), the position of its first image token there; beside them what `cross_attention` or
`sequence_images` takes, tensors in dictionaries and lists."""


@dataclass
class ProcessedImage:
    """A dialogue's image, or its several, as a model takes them: the processor's tensors.

    `features` is what the model's vision part has made of it, once computed; it stays valid over
    updates while nothing that it depends on is trained (`features_stay`). Equal images have equal
    digests.
    """

    tensors: dict[str, torch.Tensor]
    features: Any = None
    digest: bytes = b""


def read_prompt(
    processor: ProcessorMixin, text: str, image: Image
) -> tuple[list[int], ProcessedImage]:
    """Tokenize a rendered prompt that holds an image, or several, and process them.

    Raises InputError if the chat template has left no place for the image, and for an image that
    the processor does not take.
    """
    opened = open_images(image)
    if len(opened) > 1 and isinstance(processor, MllamaProcessor):
        raise InputError(
            f"the dialogue has {len(opened)} images, and a model that cross-attends to them takes "
            "one: show them as one (leave separate_views out)"
        )
    images = [PIL.Image.fromarray(one) for one in opened]  # of arrays, axes would be guessed
    names = processor.image_processor.model_input_names
    try:
        if isinstance(processor, MllamaProcessor):  # one token per image: the text stays as it is
            inputs = dict(processor.image_processor(images=images, return_tensors="pt"))
            inputs["input_ids"] = processor.tokenizer([text], add_special_tokens=False)["input_ids"]
            names = [name for name in names if name != "num_tiles"]
        else:
            inputs = processor(
                images=images, text=[text], add_special_tokens=False, return_tensors="pt"
            )
    except ValueError as error:
        if processor.image_token in text:
            height, width = opened[0].shape[:2]
            raise InputError(
                f"image of {width} x {height} pixels: the image processor does not take it: "
                f"{one_line(error)}"
            ) from error
        inputs = {"input_ids": [[]]}  # there is no place for it, which is said below
    token_ids = list(map(int, inputs["input_ids"][0]))
    if feature_token(processor) not in token_ids:
        raise InputError(
            f"the chat template leaves no place for an image ({processor.image_token} is not in "
            "the prompt that it writes): use a checkpoint whose template knows images"
        )
    digest = hashlib.blake2b(digest_size=16)
    for one in opened:
        digest.update(str(one.shape).encode())
        digest.update(np.ascontiguousarray(one))
    tensors = {name: torch.as_tensor(inputs[name]) for name in names if name in inputs}
    return token_ids, ProcessedImage(tensors, digest=digest.digest())


def image_words(processor: ProcessorMixin) -> set[str]:
    """Return what stands for an image in texts. A message that spells one has no image more."""
    owners = (processor, processor.tokenizer)
    names = ("image_token", "boi_token", "context_image_token", "video_token")
    words = {getattr(owner, name, None) for owner in owners for name in names}
    return {word for word in words if isinstance(word, str) and word}


def feature_token(processor: ProcessorMixin) -> int:
    """Return the token that stands for a feature; a template may write another one for an image."""
    own = getattr(processor.tokenizer, "image_token_id", None)
    if own is not None:  # as in Gemma 3, whose processor names the one of the template
        return own
    token = getattr(processor, "image_token_id", None)
    return (
        processor.tokenizer.convert_tokens_to_ids(processor.image_token) if token is None else token
    )


def first_image_token(processor: ProcessorMixin, token_ids: Sequence[int]) -> int:
    """Return the position of the first image token."""
    return token_ids.index(feature_token(processor))


def image_token_id(model: PreTrainedModel) -> int | None:
    """Return the image token if the model has a logit for it, else None. It has to be suppressed
    while sampling: in a reply it would count as a second image.
    """
    if not hasattr(model.config, "vision_config"):
        return None
    token = image_token(model.config)
    return token if token < model.config.get_text_config().vocab_size else None


def features_stay(model: PreTrainedModel) -> bool:
    """Return whether features stay right over updates: what they depend on is not trained, which
    is the vision tower, and the projector where features stand in the sequence.
    """
    return is_tower_frozen(model) if attends_to_images(model) else is_frozen(model)


def join_images(
    images: Sequence[ProcessedImage | None], starts: Sequence[int | None], device: Any
) -> Images | None:
    """Join the images of a batch, at most one per dialogue; return None if there are none.

    Raises InputError for images of different shapes where a model cross-attends to them.
    """
    rows = [row for row, image in enumerate(images) if image is not None]
    if not rows:
        return None
    present = [image for image in images if image is not None]
    places = {"rows": rows, "starts": [starts[row] for row in rows]}
    batch: dict[str, Any] = {name: torch.tensor(value) for name, value in places.items()}
    is_encoded = all(image.features is not None for image in present)
    if "aspect_ratio_mask" in present[0].tensors:
        batch |= _stacked(present, is_encoded)
    elif is_encoded:
        batch[EACH] = [{**without_pixels(i.tensors), **i.features} for i in present]
    else:
        batch[EACH] = [image.tensors for image in present]
    return send_to_device(batch, device)


def _stacked(images: Sequence[ProcessedImage], is_encoded: bool) -> dict[str, torch.Tensor]:
    """Return the tensors of images for cross-attention, one after the other."""
    tensors = [image.tensors for image in images]
    if is_encoded:  # the mask of padding tiles is still needed; the pixels are not
        kept = [{k: v for k, v in t.items() if k != "pixel_values"} for t in tensors]
        tensors = [t | {FEATURES: i.features} for t, i in zip(kept, images, strict=True)]
    try:
        return {name: torch.cat([t[name] for t in tensors]) for name in tensors[0]}
    except RuntimeError as error:
        raise InputError(
            f"images of a batch differ in shape ({error}): give all of them one resolution"
        ) from error


def image_inputs(
    model: PreTrainedModel, input_ids: torch.Tensor, images: Images | None
) -> dict[str, Any]:
    """Return the forward arguments for the images of a batch, beside `input_ids` (B, T). Gradients
    reach the trained parameters of the vision part. Raises InputError for a text-only model.
    """
    if images is None:
        return {}
    if not hasattr(model.config, "vision_config"):
        raise InputError(f"model type {model.config.model_type}: reads text only, and got an image")
    if not attends_to_images(model):
        return sequence_inputs(model, input_ids, images[EACH])
    states, mask = states_and_mask(model, input_ids, images)
    return {"cross_attention_states": states, "cross_attention_mask": mask}


def generate_inputs(
    model: PreTrainedModel, input_ids: torch.Tensor, images: Images | None, cache: Cache | None
) -> dict[str, Any]:
    """Return the same for `generate`. What the decoder's cross-attention makes of an image is put
    into `cache` beforehand.
    """
    if images is None or not attends_to_images(model):
        return image_inputs(model, input_ids, images)
    states, mask = states_and_mask(model, input_ids, images)
    fill_cache(model, states, cache)
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
    """Turn on activation checkpointing for all layers, those of Mllama's vision tower included."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if attends_to_images(model):
        checkpoint_tower(model)


def encode_images(model: PreTrainedModel, images: Sequence[ProcessedImage]) -> None:
    """Compute the missing features of images and keep them in main memory, each image's once. Does
    nothing for models whose forward pass takes no features.
    """
    if not attends_to_images(model) and not takes_features(model):
        return
    known = {i.digest: i.features for i in images if i.features is not None}
    new = list({i.digest: i for i in images if i.digest not in known}.values())
    # In chunks: a tower's attention mask alone grows with the square of the positions.
    for first in range(0, len(new), ENCODED_TOGETHER):
        chunk = new[first : first + ENCODED_TOGETHER]
        with torch.no_grad():
            encoded = _features(model, chunk)
        for image, features in zip(chunk, encoded, strict=True):
            known[image.digest] = features
    for image in images:
        if image.features is None:
            image.features = known[image.digest]


def _features(model: PreTrainedModel, images: Sequence[ProcessedImage]) -> list[Any]:
    """Return the features of images on the CPU, as `join_images` takes them."""
    joined = join_images(images, [0] * len(images), model.device)
    if attends_to_images(model):
        return [features.clone() for features in tower(model, joined).cpu().split(1)]
    encoded = encode(model, joined[EACH])
    return [{name: tensor.cpu().clone() for name, tensor in part.items()} for part in encoded]
