"""Real tiny models of today's vision-language architectures with random weights, and the tokenizer
and the image processor of each, for tests. Without torchvision: the processors are those of PIL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from gym_policy.models.load import save_renderer
from gym_policy.models.processors import without_video
from gym_policy.renderer import Renderer
from gym_policy.testing import (
    SIDE,
    byte_tokenizer,
    tiny_llama,
    tiny_llava,
    tiny_llava_processor,
    tiny_mllama,
    tiny_mllama_processor,
    tiny_tokenizer,
)

_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}{{ 'IMAGE' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 7,
}
_GRIDS = [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE]]

Made = tuple[PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin]


def _tokenizer(image: str, **special: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes with these special tokens, whose template writes `image`."""
    roles = {"user_token": "<|user|>", "assistant_token": "<|assistant|>"}
    return byte_tokenizer(_TEMPLATE.replace("IMAGE", image), extra_special_tokens=roles | special)


def _text(tokenizer: PreTrainedTokenizerFast, layers: int = 2, **more: Any) -> dict[str, Any]:
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return {**_TEXT, "vocab_size": len(tokenizer), "num_hidden_layers": layers, **ends, **more}


def _made(make: Callable[[], PreTrainedModel], seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


def _qwen(
    config_class: type,
    model_class: type,
    processor_class: type,
    seed: int,
    text: Mapping[str, Any],
    vision: Mapping[str, Any],
) -> Made:
    tokens = {f"{name}_token": f"<|{name}|>" for name in ("image_pad", "video_pad")}
    tokens |= {f"{name}_token": f"<|{name}|>" for name in ("vision_start", "vision_end")}
    tokenizer = _tokenizer("<|vision_start|><|image_pad|><|vision_end|>", **tokens)
    images = Qwen2VLImageProcessorPil(
        patch_size=7,
        merge_size=2,
        temporal_patch_size=2,
        min_pixels=SIDE**2,
        max_pixels=16 * SIDE**2,
    )
    processor = without_video(processor_class)(
        images, tokenizer, chat_template=tokenizer.chat_template
    )
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
    numbers = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in (
            ("image", "image_pad"),
            ("video", "video_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }
    config = config_class(
        text_config=_text(tokenizer, 3, rope_parameters=rope | text.get("rope", {}), head_dim=8),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "patch_size": 7,
            "out_hidden_size": 32,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            **vision,
        },
        **numbers,
    )
    return _made(lambda: model_class(config), seed), tokenizer, processor


def _qwen2_5_vl(seed: int) -> Made:
    vision = {"depth": 2, "window_size": SIDE, "fullatt_block_indexes": [1]}
    classes = Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
    return _qwen(*classes, seed, {}, vision)


def _qwen3_vl(seed: int) -> Made:
    """Features go into the first decoder layers, too."""
    vision = {"depth": 3, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    classes = Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
    return _qwen(*classes, seed, {"rope": {"mrope_interleaved": True}}, vision)


def _gemma3(seed: int) -> Made:
    """The tokens of an image attend to each other both ways; two layers see 16 tokens back."""
    tokens = {
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    }
    tokenizer = _tokenizer("<start_of_image>", **tokens)
    images = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    processor = Gemma3Processor(
        images, tokenizer, image_seq_length=4, chat_template=tokenizer.chat_template
    )
    window = {
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }
    config = Gemma3Config(
        text_config=_text(tokenizer, 3, head_dim=8, query_pre_attn_scalar=8, **window),
        vision_config=_TOWER,
        mm_tokens_per_image=4,
        image_token_id=tokenizer.image_token_id,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
    )
    model = _made(lambda: Gemma3ForConditionalGeneration(config), seed)
    with torch.no_grad():  # of zeros by default: no image is seen
        torch.nn.init.eye_(model.model.multi_modal_projector.mm_input_projection_weight)
    return model, tokenizer, processor


def _tiled(config_class: type, model_class: type, seed: int) -> Made:
    """An image becomes tiles and a small copy of the whole, as many as its size asks for."""
    tokens = {
        "fake_token": "<fake_token_around_image>",
        "image_token": "<image>",
        "end_token": "<end_of_utterance>",
        "global_token": "<global-img>",
    }
    tokens |= {f"t{row}{col}_token": f"<row_{row}_col_{col}>" for row in (1, 2) for col in (1, 2)}
    tokenizer = _tokenizer("<image>", **tokens)
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}
    )
    processor = Idefics3Processor(
        images, tokenizer, image_seq_len=4, chat_template=tokenizer.chat_template
    )
    config = config_class(
        text_config=_text(tokenizer, model_type="llama"),
        vision_config=_TOWER,
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    return _made(lambda: model_class(config), seed), tokenizer, processor


def _internvl(seed: int) -> Made:
    tokens = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = _tokenizer("<IMG_CONTEXT>", **tokens)
    images = GotOcr2ImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, crop_to_patches=True, min_patches=1, max_patches=3
    )
    processor = without_video(InternVLProcessor)(
        images, tokenizer, image_seq_length=4, chat_template=tokenizer.chat_template
    )
    config = InternVLConfig(
        text_config=tiny_llama(tokenizer).config,
        vision_config=_TOWER | {"image_size": [SIDE, SIDE], "patch_size": [7, 7]},
        image_seq_length=4,
        downsample_ratio=0.5,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )
    return _made(lambda: InternVLForConditionalGeneration(config), seed), tokenizer, processor


def _llava_next(seed: int) -> Made:
    tokenizer = _tokenizer("<image>", image_token="<image>")
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_grid_pinpoints=_GRIDS,
    )
    processor = LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    config = LlavaNextConfig(
        text_config=tiny_llama(tokenizer).config,
        vision_config={"model_type": "clip_vision_model"} | _TOWER,
        image_grid_pinpoints=_GRIDS,
        image_token_index=tokenizer.image_token_id,
        image_token_id=tokenizer.image_token_id,
        vision_feature_layer=-1,
    )
    return _made(lambda: LlavaNextForConditionalGeneration(config), seed), tokenizer, processor


def _llava_onevision(seed: int) -> Made:
    tokenizer = _tokenizer("<image>", image_token="<image>", video_token="<video>")
    images = LlavaOnevisionImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=_GRIDS
    )
    processor = without_video(LlavaOnevisionProcessor)(
        images,
        tokenizer,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    )
    tower = {"model_type": "siglip_vision_model", "vision_use_head": False} | _TOWER
    config = LlavaOnevisionConfig(
        text_config=tiny_llama(tokenizer).config,
        vision_config=tower,
        image_grid_pinpoints=_GRIDS,
        image_token_index=tokenizer.image_token_id,
        image_token_id=tokenizer.image_token_id,
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
    )
    return _made(lambda: LlavaOnevisionForConditionalGeneration(config), seed), tokenizer, processor


def _of_testing(make_model: Callable[..., Any], make_processor: Callable[..., Any]) -> Any:
    def make(seed: int) -> Made:
        tokenizer = tiny_tokenizer(with_images=True)
        return make_model(tokenizer, seed), tokenizer, make_processor(tokenizer)

    return make


ARCHITECTURES: dict[str, Callable[[int], Made]] = {
    "mllama": _of_testing(tiny_mllama, tiny_mllama_processor),
    "llava": _of_testing(tiny_llava, tiny_llava_processor),
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "gemma3": _gemma3,
    "idefics3": lambda seed: _tiled(Idefics3Config, Idefics3ForConditionalGeneration, seed),
    # Its own processor asks for num2words, and makes of images what that of Idefics 3 does.
    "smolvlm": lambda seed: _tiled(SmolVLMConfig, SmolVLMForConditionalGeneration, seed),
    "internvl": _internvl,
}
"""kind -> what makes its model, tokenizer and processor from a seed."""


def save_architecture(kind: str, directory: Path) -> None:
    """Save a model of an architecture and its processor as a checkpoint."""
    model, tokenizer, processor = ARCHITECTURES[kind](0)
    model.save_pretrained(directory)
    save_renderer(Renderer(tokenizer, processor), directory)
