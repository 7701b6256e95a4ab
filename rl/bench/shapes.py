"""Configurations of Llamas of real sizes, and of tiny stand-ins for them."""

from __future__ import annotations

from transformers import LlamaConfig, MllamaConfig, PreTrainedConfig

from gym_policy.models.architecture import load_architecture

SHAPES = {
    "llama-1b": LlamaConfig(
        vocab_size=128_256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
    ),
    "llama-8b": LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
    ),
    "llama-tiny": LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    # As in Llama-3.2-Vision, the image token is the first beyond the head's vocabulary.
    "mllama-tiny": MllamaConfig(
        image_token_index=2000,
        text_config={
            "vocab_size": 2000,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "cross_attention_layers": [1, 3],
            "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 4,
            "intermediate_size": 64,
            "vision_output_dim": 64,
            "image_size": 28,
            "patch_size": 14,
            "max_num_tiles": 2,
            "intermediate_layers_indices": [0],
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
        },
    ),
}


def find_shape(name: str) -> PreTrainedConfig:
    """Return a shape by name, or the configuration of a directory or hub name."""
    return SHAPES.get(name) or load_architecture(name)
