"""Lengths, in tokens, of an environment's prompts and verifier messages."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gymnasium

from gym_dialogue import Message, NoisyOraclePolicy, Task, rollout
from gym_policy import Renderer, load_tokenizer
from gym_policy.models.architecture import local_directory
from rl.config import RLConfig

_EPISODES = 16  # sampled in search of the longest prompt
_TEMPLATE_TOKENS = 32  # of a chat template around a message, if no tokenizer is available
# English and JSON take 3 to 4 characters per token in the vocabularies of current models.
_CHARACTERS_PER_TOKEN = 3
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


@dataclass(frozen=True)
class Lengths:
    """Tokens of the longest prompt and verifier message, each with its share of the template."""

    prompt: int
    feedback: int
    verify_iter: int
    counted: bool
    """Whether a tokenizer counted the tokens; otherwise they are estimated from characters."""

    def context(self, replies: int, max_new_tokens: int) -> int:
        """Return the tokens before the last of `replies` replies, all of maximum length."""
        return self.prompt + (replies - 1) * (max_new_tokens + self.feedback)

    def dialogue(self, replies: int, max_new_tokens: int) -> int:
        """Return the tokens up to the end of the last reply."""
        return self.context(replies, max_new_tokens) + max_new_tokens


def measure_lengths(config: RLConfig, env: gymnasium.Env) -> Lengths:
    """Return the lengths seen in sampled episodes in which half of the replies are wrong."""
    tasks = [Task(seed, (seed,)) for seed in range(_EPISODES)]
    episodes = rollout([env], NoisyOraclePolicy(0.5), tasks)
    prompt = max((d.messages[0].text for e in episodes for d in e.dialogues), key=len)
    feedback = max((turn.feedback for e in episodes for turn in e.turns), key=len)
    verify_iter: int = env.get_wrapper_attr("verify_iter")
    tokenizer = _local_tokenizer(config)
    if tokenizer is None:
        return Lengths(_estimate(prompt), _estimate(feedback), verify_iter, counted=False)
    messages = [Message("user", prompt), Message("assistant", "1"), Message("user", feedback)]
    renderer = Renderer(tokenizer, template_kwargs=config.chat_template_kwargs)
    first, whole = renderer.render(messages[:1]), renderer.render(messages)
    reply_tokens = sum(turn == 0 for turn in whole.turn)
    between = len(whole.token_ids) - len(first.token_ids) - reply_tokens
    return Lengths(len(first.token_ids), between, verify_iter, counted=True)


def _estimate(text: str) -> int:
    """Return an upper estimate of a message's tokens, template included."""
    return math.ceil(len(text) / _CHARACTERS_PER_TOKEN) + _TEMPLATE_TOKENS


def _local_tokenizer(config: RLConfig) -> Any:
    """Load the model's tokenizer if its files are on this machine, else return None."""
    directory = local_directory(config.model)
    if directory is None or not any((directory / name).is_file() for name in _TOKENIZER_FILES):
        return None
    return load_tokenizer(str(directory), config.trust_remote_code)
