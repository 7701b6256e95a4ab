"""Policies that are language models.

The modules here are the base: a dialogue's tokens and images, and the distribution that is sampled
from. Above it, `models` loads and makes models, `samplers` samples replies, `training` has what RL
and SFT share; `api` asks models behind an endpoint, and needs none of the others.
"""

from gym_policy.models.load import load_model, load_renderer, load_tokenizer
from gym_policy.renderer import Renderer
from gym_policy.samplers.model_policy import ModelPolicy

__all__ = ["ModelPolicy", "Renderer", "load_model", "load_renderer", "load_tokenizer"]
