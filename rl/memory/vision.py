"""Memory that images take: the vision part's own, and that of what the decoder sees of them.

An image is V positions in the tower, padding included, and S features for the decoder, which stand
in its sequence or are attended to by layers of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
from transformers import PreTrainedConfig

from gym_dialogue import InputError, Message
from gym_policy import load_renderer
from gym_policy.models.architecture import local_directory
from gym_policy.renderer import Rendered
from gym_policy.sequence_images import ENCODED_TOGETHER, image_token
from rl.config import RLConfig

IMAGES = "images"
"""The part of a phase that this module counts."""


@dataclass(frozen=True)
class ImageSizes:
    """What the memory of a dialogue's images depends on."""

    positions: int
    """V."""
    features: int
    """S."""
    tokens: int
    """What an image adds to the prompt: S and what stands around them; or 1 where layers attend to
    the image."""
    width: int
    feed_forward: int
    layers: int
    gated: bool
    """Whether the feed-forward part has a gate."""
    pixels: int
    """Values of the processed images."""
    cross_layers: int
    """Decoder layers that attend to the features."""
    counted: bool
    """Whether the model's own processor said so; otherwise the sizes are those of a full image."""


def image_sizes(config: RLConfig, architecture: PreTrainedConfig, env: gymnasium.Env) -> ImageSizes:
    """Return the sizes for the images of an environment."""
    vision = architecture.vision_config
    width = _first(vision, "hidden_size", "embed_dim")
    layers = _first(vision, "num_hidden_layers", "depth", "num_layers")
    layers += getattr(vision, "num_global_layers", 0)
    feed_forward = _first(vision, "intermediate_size", default=4 * width)
    cross = len(getattr(architecture.get_text_config(), "cross_attention_layers", None) or ())
    rendered, tokens = _rendered(config, env)
    if rendered is None or rendered.processed_image is None:
        positions, pixels = _full_image(vision)
        features, tokens = positions, 1 if cross else positions
    else:
        tensors = rendered.processed_image.tensors
        pixels = tensors["pixel_values"].numel()
        positions = _positions(vision, tensors["pixel_values"])
        features = positions if cross else rendered.token_ids.count(image_token(architecture))
    return ImageSizes(
        positions=positions,
        features=features,
        tokens=tokens,
        width=width,
        feed_forward=feed_forward,
        layers=layers,
        gated=getattr(vision, "hidden_act", "") == "silu",
        pixels=pixels,
        cross_layers=cross,
        counted=rendered is not None,
    )


def _first(vision: Any, *names: str, default: int | None = None) -> int:
    value = next((getattr(vision, n) for n in names if getattr(vision, n, None)), default)
    if value is None:
        raise InputError(f"vision_config: has none of {', '.join(names)}")
    return value


def _rendered(config: RLConfig, env: gymnasium.Env) -> tuple[Rendered | None, int]:
    """Return a prompt of the environment, and the tokens that its image adds to it; None where the
    processor is not on this machine.
    """
    directory = local_directory(config.model)
    if directory is None:
        return None, 0
    renderer = load_renderer(str(directory), config.chat_template_kwargs, config.trust_remote_code)
    if renderer.processor is None:
        return None, 0
    rendered = renderer.first_prompt(env)
    in_words = renderer.render([Message("user", env.reset(seed=0)[0]["text"])])
    return rendered, len(rendered.token_ids) - len(in_words.token_ids)


def _side(value: Any) -> int:
    return value if isinstance(value, int) else max(value)


def _full_image(vision: Any) -> tuple[int, int]:
    """Return positions and pixel values of an image that fills every tile."""
    side, patch = _side(vision.image_size), _side(vision.patch_size)
    tiles = getattr(vision, "max_num_tiles", 1)
    return _padded(tiles, (side // patch) ** 2, vision), tiles * 3 * side**2


def _positions(vision: Any, pixels: torch.Tensor) -> int:
    patch = _side(vision.patch_size)
    if pixels.dim() == 2:  # a row a patch
        return len(pixels)
    tiles = pixels.numel() // (pixels.shape[-1] * pixels.shape[-2] * 3)
    return _padded(tiles, (pixels.shape[-1] // patch) * (pixels.shape[-2] // patch), vision)


def _padded(tiles: int, patches: int, vision: Any) -> int:
    """Return the positions of tiles with a class token each, in Mllama padded to multiples of 8."""
    is_mllama = hasattr(vision, "max_num_tiles")
    return tiles * (-(-(patches + 1) // 8) * 8 if is_mllama else patches + 1)


@dataclass(frozen=True)
class ImageWork:
    """Bytes that images take on a device, with `bytes` for each value."""

    sizes: ImageSizes
    bytes: int
    trained: bool
    """Whether the vision part is."""
    keys: int
    """Width of the decoder's keys."""
    hidden: int
    """Width of the decoder."""

    def kept(self, dialogues: int, checkpointing: bool) -> int:
        """Return bytes that a forward pass keeps for the backward pass."""
        s, c, h, f = self.sizes, self.bytes, self.sizes.width, self.sizes.feed_forward
        encoder = 0
        if self.trained:
            # Of a layer: two norms and their inputs, queries, keys, values and output, the
            # feed-forward part before and after its activation; and what one architecture or
            # another has besides (rotations, scales, a gate). With checkpointing, its input.
            layer = c * (12 * h + 4 * f if s.gated else 10 * h + 3 * f) + 32
            encoder = s.layers * s.positions * (c * h if checkpointing else layer) + c * s.pixels
            encoder += 4 * c * s.positions * h  # what stands around the layers
        decoder = 4 * c * s.features * self.hidden + self.cache(1)
        return dialogues * (encoder + decoder)

    def forward(self, dialogues: int) -> int:
        """Return the peak of encoding so many dialogues' images without gradients."""
        s, c = self.sizes, self.bytes
        together = min(dialogues, ENCODED_TOGETHER)
        return together * (c * s.positions * (4 * s.width + 2 * s.feed_forward) + c * s.pixels)

    def scored(self, dialogues: int) -> int:
        """Return bytes of what the decoder sees of images in a pass without gradients, and of
        encoding them, where features do not outlast sampling.
        """
        features = self.bytes * dialogues * self.sizes.features * self.hidden
        return features + self.cache(dialogues) + self.trained * self.forward(dialogues)

    def cache(self, dialogues: int) -> int:
        """Return bytes of the keys and values that layers have of images."""
        s = self.sizes
        return dialogues * s.features * 2 * self.keys * self.bytes * s.cross_layers
