"""Policies that are language models: loading, rendering dialogues to tokens, sampling, scoring."""

from gym_policy.load import load_model, load_renderer, load_tokenizer
from gym_policy.renderer import Renderer
from gym_policy.sampler import ModelPolicy

__all__ = ["ModelPolicy", "Renderer", "load_model", "load_renderer", "load_tokenizer"]
