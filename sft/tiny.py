"""A Llama, or a Mllama (Llama-3.2-Vision), of a million parameters or two with its own small
tokenizer, made from scratch.

It stands in for a pretrained model wherever there is no GPU and nothing to download: the same
code runs, in minutes on two CPU cores.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

from gym_dialogue import DialogueEnv

BEGIN, IMAGE = "<|begin|>", "<|image|>"
PAD, USER, ASSISTANT, SYSTEM, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>'"
    " }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

IMAGE_CHAT_TEMPLATE = (
    "{{ '<|begin|>' }}{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<|image|>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

INITIALIZER_RANGE = 0.02  # as in transformers

_GATES = ("cross_attn_attn_gate", "cross_attn_mlp_gate", "gate_attn", "gate_ffn")


def build_tokenizer(
    texts: Iterable[str],
    patterns: Sequence[str] = DialogueEnv.token_patterns,
    with_images: bool = False,
) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer in which all that the patterns of a task match in its texts
    (`DialogueEnv.token_patterns`) is one token each; any other text is spelt in bytes.
    `with_images` adds a token that stands for one.

    Prompts are short this way, so that a tiny model spends its time on the task.
    """
    compiled = [re.compile(pattern) for pattern in patterns]
    pieces = {piece for text in set(texts) for known in compiled for piece in known.findall(text)}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT, SYSTEM, *([IMAGE] if with_images else [])],
        chat_template=IMAGE_CHAT_TEMPLATE if with_images else CHAT_TEMPLATE,
        **({"bos_token": BEGIN} if with_images else {}),
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    longer = sorted(piece for piece in pieces if len(piece) > 1)
    fast.add_tokens([AddedToken(piece, normalized=False) for piece in longer])
    return fast


def build_model(
    vocab_size: int,
    pad_token_id: int,
    eos_token_id: int,
    seed: int,
    initializer_range: float = INITIALIZER_RANGE,
) -> LlamaForCausalLM:
    """Return a Llama with random weights from `seed`, of a standard deviation of
    `initializer_range`: 4 layers of 128, about 0.9 million parameters.
    """
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        initializer_range=initializer_range,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def build_processor(tokenizer: PreTrainedTokenizerFast, resolution: int) -> MllamaProcessor:
    """Return the processor of `build_vision_model`: images of `resolution` pixels, in one tile."""
    size = {"height": resolution, "width": resolution}
    images = MllamaImageProcessorPil(size=size, max_image_tiles=1)
    return MllamaProcessor(images, tokenizer, chat_template=tokenizer.chat_template)


def _patch_size(resolution: int) -> int:
    """Return about 14 pixels, so that an image has a whole number of patches if possible."""
    whole = [size for size in range(9, 21) if resolution % size == 0]
    return min(whole, key=lambda size: abs(size - 14), default=14)


def build_vision_model(
    tokenizer: PreTrainedTokenizerFast,
    resolution: int,
    seed: int,
    initializer_range: float = INITIALIZER_RANGE,
) -> MllamaForConditionalGeneration:
    """Return a Mllama with random weights from `seed`: the decoder of `build_model` with two layers
    more that attend to the image, and a vision tower of 2 + 1 layers of 96; 1.8 million parameters.
    """
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = MllamaTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=6,
        cross_attention_layers=[1, 3],
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        initializer_range=initializer_range,
        tie_word_embeddings=True,
        **special,
    )
    vision = MllamaVisionConfig(
        hidden_size=96,
        num_hidden_layers=2,
        num_global_layers=1,
        attention_heads=4,
        intermediate_size=384,
        vision_output_dim=2 * 96,
        image_size=resolution,
        patch_size=_patch_size(resolution),
        max_num_tiles=1,
        intermediate_layers_indices=[0],
        supported_aspect_ratios=[[1, 1]],
    )
    whole: dict[str, Any] = special | {
        "vision_config": vision.to_dict(),
        "text_config": text.to_dict(),
        "image_token_index": tokenizer.convert_tokens_to_ids(IMAGE),
        "tie_word_embeddings": True,
    }
    config = MllamaConfig(**whole)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MllamaForConditionalGeneration(config)
        # Closed gates, the default, are for grafting vision onto a decoder that is already trained.
        for name, parameter in model.named_parameters():
            if name.endswith(_GATES):
                torch.nn.init.constant_(parameter, 0.5)
    return model
