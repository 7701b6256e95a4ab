"""A real tiny tokenizer and image processors, and a real tiny Llama, Mllama and LLaVA with random
weights, for tests.
"""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
IMAGE_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|image|>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SIDE = 28  # pixels of a tile


def byte_tokenizer(chat_template, **special):
    """Return a tokenizer whose tokens are the bytes and these special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        **special,
    )


def tiny_tokenizer(with_images=False):
    """Return a tokenizer of bytes; one more token stands for an image."""
    return byte_tokenizer(
        IMAGE_TEMPLATE if with_images else TEMPLATE,
        additional_special_tokens=["<|user|>", "<|assistant|>"] + ["<|image|>"] * with_images,
        **({"bos_token": "<|begin|>"} if with_images else {}),
    )


def tiny_llama(tokenizer, seed=0):
    """Return a Llama of two layers of 32."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def tiny_mllama(tokenizer, seed=0):
    """Four layers of 32, two of them with cross-attention to a vision part of 2 + 1 layers."""
    text = MllamaTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        cross_attention_layers=[1, 3],
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.eos_token_id,
    )
    vision = MllamaVisionConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_global_layers=1,
        attention_heads=4,
        intermediate_size=64,
        vision_output_dim=64,
        image_size=SIDE,
        patch_size=14,
        max_num_tiles=2,
        intermediate_layers_indices=[0],
        supported_aspect_ratios=[[1, 1], [1, 2], [2, 1]],
    )
    config = MllamaConfig(vision_config=vision.to_dict(), text_config=text.to_dict())
    if "<|image|>" in tokenizer.get_vocab():
        config.image_token_index = tokenizer.convert_tokens_to_ids("<|image|>")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MllamaForConditionalGeneration(config).eval()
        for name, parameter in model.named_parameters():  # closed by default: no image is seen
            if name.endswith(("attn_gate", "mlp_gate", "gate_attn", "gate_ffn")):
                torch.nn.init.constant_(parameter, 1.0)
        return model


def tiny_mllama_processor(tokenizer):
    """Return the processor of tiny_mllama: images of up to two tiles."""
    images = MllamaImageProcessorPil(size={"height": SIDE, "width": SIDE}, max_image_tiles=2)
    return MllamaProcessor(images, tokenizer, chat_template=tokenizer.chat_template)


def tiny_llava(tokenizer, seed=0):
    """tiny_llama with the features of a CLIP tower of two layers in its token sequence."""
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=14,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=tiny_llama(tokenizer).config,
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
        vision_feature_layer=-1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlavaForConditionalGeneration(config).eval()


def tiny_llava_processor(tokenizer):
    """Return the processor of tiny_llava."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        image_token="<|image|>",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )


THAT_SEE = {
    "mllama": (tiny_mllama, tiny_mllama_processor),
    "llava": (tiny_llava, tiny_llava_processor),
}
"""kind -> what makes its model, and its processor, for a tokenizer with images."""
