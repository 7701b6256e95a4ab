"""Loads models and tokenizers from a directory or the hub, with one clear line when it cannot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import cached_file

from gym_dialogue.errors import InputError
from gym_policy.limits import not_numbers
from gym_policy.models.adapter import base_of, load_adapter
from gym_policy.models.download import require
from gym_policy.models.hub import LOAD_ERRORS, first_line, load_reason
from gym_policy.models.processors import load_processor
from gym_policy.renderer import Renderer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

FALLBACK_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ message['content'] + eos_token + '\n\n' }}"
    "{% else %}{{ '### ' + message['role'] + '\n' + message['content'] + '\n\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '### assistant\n' }}{% endif %}"
)
"""For base models, whose tokenizer brings no chat template."""


# The largest that is taken for a size, far beyond any model's.
_SIZES = {
    "num_hidden_layers": 1_000,
    "num_attention_heads": 10_000,
    "num_key_value_heads": 10_000,
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "head_dim": 1_000_000,
    "vocab_size": 100_000_000,
    "max_position_embeddings": 2_000_000_000,
}
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


def load_tokenizer(path: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Return a tokenizer with a chat template, padding on the left and a pad token that is set.

    Raises InputError if there is none at `path` or it has no end-of-text token, and for one that
    brings its own code, unless that is to be trusted.
    """
    if not Path(path).is_dir():
        require(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except LOAD_ERRORS as error:
        raise InputError(f"tokenizer of {path}: cannot be loaded: {load_reason(error)}") from error
    if tokenizer.eos_token_id is None:
        raise InputError(f"tokenizer of {path}: has no end-of-text token (eos_token)")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template is None:
        begin = "{{ bos_token }}" if _begins_texts(tokenizer) else ""
        tokenizer.chat_template = _processor_template(path) or begin + FALLBACK_CHAT_TEMPLATE
    tokenizer.padding_side = "left"
    return tokenizer


def _begins_texts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the tokenizer begins texts with its bos token: the model knows no other."""
    return tokenizer.bos_token_id is not None and (
        tokenizer("?")["input_ids"][:1] == [tokenizer.bos_token_id]
    )


def load_renderer(
    path: str,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> Renderer:
    """Return the tokenizer of a checkpoint, with its image processor if it has one, and the tokens
    that its generation_config ends replies with. Raises InputError; but what is wrong with an image
    processor shows only where images are to be seen.
    """
    tokenizer = load_tokenizer(path, trust_remote_code)
    processor, fault = None, None
    try:
        processor = _load_processor(path, tokenizer, trust_remote_code)
    except InputError as error:
        fault = str(error)
    ends = _end_tokens(path)
    return Renderer(tokenizer, processor, fault, chat_template_kwargs, ends)


def _end_tokens(path: str) -> list[int]:
    """Return the end tokens that generation_config.json lists; of an adapter, that of its base."""
    options = {"_raise_exceptions_for_missing_entries": False}
    what = f"generation_config.json of {path}"
    try:
        file = cached_file(path, "generation_config.json", **options)
        if file is None and (Path(path) / "adapter_config.json").is_file():
            what = f"generation_config.json of {base_of(path)}"
            file = cached_file(base_of(path), "generation_config.json", **options)
        settings = {} if file is None else json.loads(Path(file).read_text(encoding="utf-8"))
        listed = settings.get("eos_token_id")
    except LOAD_ERRORS as error:
        raise InputError(f"{what}: cannot be read: {first_line(error)}") from error
    ends = listed if isinstance(listed, list) else [] if listed is None else [listed]
    if not all(isinstance(token, int) for token in ends):
        raise InputError(f"{what}: eos_token_id={listed!r}: must be a token's number, or a list")
    return ends


def _load_processor(
    path: str, tokenizer: PreTrainedTokenizerBase, trust_remote_code: bool = False
) -> ProcessorMixin | None:
    options = {"_raise_exceptions_for_missing_entries": False}
    try:
        if not any(cached_file(path, name, **options) for name in _PROCESSOR_FILES):
            return None
        processor = load_processor(path, trust_remote_code)
    except LOAD_ERRORS as error:
        raise InputError(
            f"image processor of {path}: cannot be loaded: {load_reason(error)}"
        ) from error
    if getattr(processor, "image_processor", None) is None:
        return None
    processor.tokenizer, processor.chat_template = tokenizer, tokenizer.chat_template
    return processor


def save_renderer(renderer: Renderer, directory: str | Path) -> None:
    """Write the files of a tokenizer, and of an image processor. Raises OSError where the disk does
    not take them.
    """
    try:
        (renderer.processor or renderer.tokenizer).save_pretrained(directory)
    except Exception as error:
        if type(error) is not Exception:  # what the tokenizers library raises for any fault
            raise
        raise OSError(str(error)) from error


def load_model(
    path: str, dtype: str = "float32", trust_remote_code: bool = False
) -> PreTrainedModel:
    """Return a causal language model in evaluation mode, with its adapter where `path` holds one.

    A model with a vision part (Llama-3.2-Vision, say) is loaded whole. Raises InputError if there
    is none at `path`, or its weights are not exactly those of its configuration: a foreign
    checkpoint must be neither completed with random weights in silence nor cut. Code that comes
    with a model runs only if it is to be trusted.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype!r}: must be one of {', '.join(DTYPES)}")
    if (Path(path) / "adapter_config.json").is_file():
        named = base_of(path)
        if (Path(named) / "adapter_config.json").is_file():
            raise InputError(f"adapter {path}: its base {named} is itself an adapter; name a model")
        base = load_model(named, dtype, trust_remote_code)
        return _checked(load_adapter(base, path).eval(), path)
    if not Path(path).is_dir():
        require(path)
    _refuse_foreign(path)
    try:
        config = load_config(path, trust_remote_code)
        model, report = auto_class(config).from_pretrained(
            path,
            config=config,
            dtype=DTYPES[dtype],
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
        )
    except InputError:
        raise
    except LOAD_ERRORS as error:
        raise InputError(f"checkpoint {path}: cannot be loaded: {load_reason(error)}") from error
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        keys = sorted(str(key) for key in report.get(kind) or ())
        if keys:
            raise InputError(
                f"checkpoint {path}: {kind.replace('_', ' ')}: {', '.join(keys[:3])}"
                f"{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}; "
                "its weights are not those of its config.json"
            )
    return _checked(model.eval(), path)


def load_config(path: str | Path, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Return the configuration of a model. Raises InputError, also for sizes that no model has:
    building one of them would not end, or fail far from its reason.
    """
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except LOAD_ERRORS as error:
        raise InputError(
            f"model {path}: config.json cannot be read: {load_reason(error)}"
        ) from error
    parts = [config.get_text_config(), getattr(config, "vision_config", None)]
    for part in parts:
        dtype = getattr(part, "dtype", None)
        is_of_weights = isinstance(dtype, torch.dtype) and dtype.is_floating_point
        if dtype is not None and not is_of_weights:
            raise InputError(f"model {path}: config.json: dtype={dtype!r}: is no type of weights")
        for name in _SIZES:
            size = getattr(part, name, None)
            if isinstance(size, int) and not 0 < size <= _SIZES[name]:
                raise InputError(
                    f"model {path}: config.json: {name}={size}: must be from 1 to {_SIZES[name]}"
                )
    return config


def _checked(model: PreTrainedModel, path: str) -> PreTrainedModel:
    """Return the model. Raises InputError if its weights are not numbers."""
    name = not_numbers(model)
    if name is not None:
        raise InputError(
            f"checkpoint {path}: its weights are not all finite numbers ({name}): the training "
            "that wrote it diverged, or the file is damaged; choose another checkpoint"
        )
    return model


def auto_class(config: PreTrainedConfig) -> type[_BaseAutoModelClass]:
    """Return the auto class that loads all of a model: language models, or those with a vision
    part.
    """
    has_vision = hasattr(config, "vision_config")
    return AutoModelForImageTextToText if has_vision else AutoModelForCausalLM


def _processor_template(path: str) -> str | None:
    """Return the chat template that processors of 2024 kept beside the tokenizer's files."""
    try:
        file = cached_file(path, "chat_template.json", _raise_exceptions_for_missing_entries=False)
        return None if file is None else json.loads(Path(file).read_text())["chat_template"]
    except (*LOAD_ERRORS, TypeError) as error:
        raise InputError(f"chat_template.json of {path}: {first_line(error)}") from error


def _refuse_foreign(path: str) -> None:
    config_file = Path(path) / "config.json"
    if not Path(path).is_dir() or not config_file.is_file():
        return
    try:
        config = json.loads(config_file.read_text())
    except (ValueError, RecursionError) as error:
        raise InputError(f"checkpoint {path}: config.json is not JSON: {error}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise InputError(f"checkpoint {path}: config.json names no model_type")
