"""Configurations of Llamas of real sizes."""

from __future__ import annotations

from transformers import LlamaConfig, PreTrainedConfig

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
}


def find_shape(name: str) -> PreTrainedConfig:
    """Return a shape by name, or the configuration of a directory or hub name."""
    return SHAPES.get(name) or load_architecture(name)
