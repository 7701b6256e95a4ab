"""What a model is, without its weights: its configuration and the shapes of its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from torch import nn
from transformers import MllamaConfig, PreTrainedConfig, PreTrainedModel

from gym_command.run_dir import saved_checkpoints
from gym_dialogue.errors import InputError
from gym_policy.models.adapter import CONFIG_FILE, base_of
from gym_policy.models.hub import LOAD_ERRORS, load_reason
from gym_policy.models.load import auto_class, load_config

_FILES = ("config.json", CONFIG_FILE)
_IMAGE_SIDE = {
    "meta-llama/Llama-3.2-11B-Vision": 448,
    "meta-llama/Llama-3.2-11B-Vision-Instruct": 560,
    "tianzhechu/GP-L-Init": 560,
    "tianzhechu/GP-VL-Init": 560,
    "tianzhechu/VIRL-L-Init": 560,
    "tianzhechu/VIRL-VL-Init": 560,
}
"""Pixels, by hub name, of models that are Llama-3.2-11B-Vision. Nothing else differs in shape."""


def local_directory(path: str) -> Path | None:
    """Return where a model's files lie on this machine: the directory itself, a run's last
    checkpoint, or what the hub's cache holds of a name; None if nothing. Uses no network. Raises
    InputError for a path that does not exist.
    """
    checkpoint = saved_checkpoints(path)[-1]
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    try:
        return Path(snapshot_download(checkpoint, local_files_only=True))
    except (OSError, ValueError):
        return None


def load_architecture(path: str, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Return the configuration of a model, or of the base of an adapter, without its weights.

    `path` is a directory, a run's directory or a hub name. The hub is asked only for what is
    neither on this machine nor known. `name_or_path` of the result says where it is from. Raises
    InputError if there is no configuration to be had.
    """
    directory = _directory(path)
    if directory is not None and not (directory / "config.json").is_file():
        path = base_of(directory)
        directory = _directory(path)
        if directory is not None and not (directory / "config.json").is_file():
            raise InputError(f"model {path}: is itself an adapter; name a whole model as its base")
    if directory is None:
        # transformers' defaults are the sizes of Llama-3.2-11B-Vision: 40 layers of width 4096, of
        # which 8 attend to the image, and 32 + 8 vision layers of width 1280.
        config = MllamaConfig(vision_config={"image_size": _IMAGE_SIDE[path]})
        config.name_or_path = "the sizes of Llama-3.2-11B-Vision, as it is not on this machine"
        return config
    return load_config(directory, trust_remote_code)


def _directory(path: str) -> Path | None:
    """Return a directory that holds a configuration; None for a known model that is not here."""
    directory = local_directory(path)
    if directory is not None and any((directory / name).is_file() for name in _FILES):
        return directory
    if path in _IMAGE_SIDE:
        return None
    try:
        directory = Path(snapshot_download(path, allow_patterns=list(_FILES)))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise InputError(
            f"model {path}: its configuration is not on this machine, and the hub did not give it: "
            f"{_first(error)}"
        ) from error
    if not any((directory / name).is_file() for name in _FILES):
        raise InputError(f"model {path}: the hub has no {' or '.join(_FILES)} under this name")
    return directory


@dataclass(frozen=True)
class TextSizes:
    """What the decoder's activations depend on: the layers that text passes through, and widths."""

    layers: int
    hidden: int
    heads: int
    queries: int
    keys: int
    feed_forward: int
    vocabulary: int


def text_sizes(config: PreTrainedConfig) -> TextSizes:
    """Return the sizes of a configuration. What it does not name is taken as in GPT-2: as many key
    heads as heads, and a feed-forward part four times as wide.
    """
    text = config.get_text_config()
    heads, hidden = text.num_attention_heads, text.hidden_size
    head_size = getattr(text, "head_dim", None) or hidden // heads
    return TextSizes(
        layers=text.num_hidden_layers - len(_image_layers(text)),
        hidden=hidden,
        heads=heads,
        queries=heads * head_size,
        keys=(getattr(text, "num_key_value_heads", None) or heads) * head_size,
        feed_forward=getattr(text, "intermediate_size", None) or 4 * hidden,
        vocabulary=text.vocab_size,
    )


def empty_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Return the model of a configuration with parameters that have shapes but no memory (device
    meta). Tied weights are one parameter, as in the real one. Raises InputError for a configuration
    of which no model can be made.
    """
    try:
        with torch.device("meta"):
            return auto_class(config).from_config(config)
    except LOAD_ERRORS as error:
        raise InputError(
            f"model {config.name_or_path}: no model can be made of its config.json: "
            f"{load_reason(error)}"
        ) from error


def text_parameters(model: PreTrainedModel) -> list[nn.Parameter]:
    """Return the parameters that text passes through, each once: all of a language model; of a
    model with a vision part its decoder and head, without the layers that attend to an image.
    """
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    passed_over = [decoder.layers[index] for index in _image_layers(decoder.config)]
    left_out = {id(p) for layer in passed_over for p in layer.parameters()}
    by_id = {id(p): p for part in (decoder, head) for p in part.parameters()}
    return [parameter for key, parameter in by_id.items() if key not in left_out]


def _image_layers(text: PreTrainedConfig) -> list[int]:
    """Return the decoder layers that Mllama passes over where there is no image."""
    return getattr(text, "cross_attention_layers", None) or []


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
