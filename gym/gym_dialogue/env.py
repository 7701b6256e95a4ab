"""The contract of both environments: a Gymnasium environment whose action is a reply's text."""

from __future__ import annotations

import re
import string
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from gym_dialogue.checks import is_integer
from gym_dialogue.errors import InputError

TEXT_CHARSET = string.printable
"""Characters of observations and of sampled actions: printable ASCII with its white space."""


MAX_REPLY_LENGTH = 4096
"""Characters of an action that the action space has."""


@dataclass(frozen=True)
class Prompt:
    """The first user message of a fresh dialogue; `info` joins the environment's info. `kind` is
    what kind of position the dialogue is about, where a task has several: results are told apart by
    it.
    """

    text: str
    image: np.ndarray | None = None
    info: dict[str, Any] = field(default_factory=dict)
    kind: str = ""


@dataclass(frozen=True)
class Verdict:
    """What the verifier says of one reply.

    `outcomes` holds the name of every finding, the primary one first. `info` joins the
    environment's info (what was read, say).
    `recognized`: whether what the reply says it sees is what there is to see; None where it says
    nothing, or there is nothing to see.
    """

    reward: float
    outcomes: tuple[str, ...]
    feedback: str
    is_right: bool
    info: dict[str, Any] = field(default_factory=dict)
    recognized: bool | None = None
    checks: Mapping[str, bool] = field(default_factory=dict)
    """What else of the reply is right or not, by name, without a part in the reward."""


def shows_images(env: gym.Env) -> bool:
    """Return whether an environment's prompts come with images."""
    space = env.observation_space
    return isinstance(space, spaces.Dict) and "image" in space.spaces


class DialogueEnv(gym.Env[dict[str, Any], str]):
    """An episode is one or more dialogues between a verifier and a policy.

    Observation: a dict of `text`, the next user message; `new_dialogue`, 1 where `text` is the
    task's prompt and a dialogue starts afresh, 0 where it is the verifier's word in the same
    dialogue; and with vision `image`, uint8 (H, W, 3), or several of one size (N, H, W, 3). Action:
    the text of the reply.

    A dialogue allows `verify_iter` replies. A wrong one gets the verifier's sentence as the next
    user message; after a right one, or the last allowed wrong one, the task goes on in a fresh
    dialogue, or ends (`terminated`: nothing is bootstrapped). The episode is a success if every
    dialogue ended with a right reply. `truncated` is always False.

    `info` has `outcome`, `outcomes`, `feedback`, `is_right`, `recognized` (of the Verdict),
    `is_read` (whether an answer was found in the reply; None where the environment does not say),
    `kind` (of the dialogue that the reply was in), `is_success`, `remaining_steps`, `answer_field`,
    and `puzzle`, the name under which episodes of the same task are clustered in statistics.

    A subclass draws the task in `_begin`, judges replies in `_judge`, and goes on in `_advance`.
    """

    metadata = {"render_modes": []}
    max_text_length = 16384
    answer_field: str | None = None
    """The field of a reply that holds the answer itself, after what leads up to it."""
    answer_info: str | None = None
    """The key of a Verdict's info that holds the answer as it was read, None or empty where none
    was."""
    token_patterns: tuple[str, ...] = (r"\s*\w+|[^\w\s]+",)
    """Regular expressions: what they match in the task's texts makes the vocabulary of a tokenizer
    made for this task alone (`sft.tiny`)."""

    def __init__(self, verify_iter: int, image_shape: tuple[int, ...] | None = None):
        if not is_integer(verify_iter) or verify_iter < 1:
            raise InputError(f"verify_iter={verify_iter!r}: must be an integer of at least 1")
        self.verify_iter = verify_iter
        self._parts: dict[str, spaces.Space] = {"new_dialogue": spaces.Discrete(2)}
        if image_shape is not None:
            self._parts["image"] = spaces.Box(0, 255, image_shape, np.uint8)
        self._admit(set())
        self.action_space = spaces.Text(MAX_REPLY_LENGTH, min_length=0, charset=TEXT_CHARSET)
        self._remaining = 0
        self._has_failed = False
        self._prompt = Prompt("")  # of the present position, once an episode has begun

    @abstractmethod
    def _begin(self, options: dict[str, Any]) -> Prompt:
        """Draw a task with `self.np_random`, or take it from `options`; return its prompt."""

    @abstractmethod
    def _judge(self, reply: str) -> Verdict:
        """Verify a reply to the present prompt. Must accept any string and never raise."""

    def _advance(self, is_right: bool) -> Prompt | None:
        """Leave the present position, won or failed, for the next: its prompt; None where the
        episode ends here.
        """
        return None

    def each_once(self) -> list[dict[str, Any]]:
        """Reset options that, one after the other, play each puzzle of this environment exactly
        once, in order. Raises InputError where there is no list of them.
        """
        raise InputError(f"each_once: {type(self).__name__} has no list of its puzzles")

    def _admit(self, characters: set[str]) -> str:
        """Let more characters stand in observations; returns all that may."""
        charset = TEXT_CHARSET + "".join(sorted(characters - set(TEXT_CHARSET)))
        text = spaces.Text(self.max_text_length, min_length=0, charset=charset)
        self.observation_space = spaces.Dict({**self._parts, "text": text})
        self._foreign = re.compile(f"[^{re.escape(charset)}]")
        return charset

    def _worded(self, verdict: Verdict, sentence: str) -> Verdict:
        """Return the verdict with this sentence as feedback. What that repeats of the reply may
        hold any character; an observation may not.
        """
        return replace(verdict, feedback=self._foreign.sub("?", sentence))

    @abstractmethod
    def oracle_reply(self) -> str:
        """Return a reply that the verifier accepts in the present state."""

    @abstractmethod
    def random_reply(self, rng: np.random.Generator) -> str:
        """Return a well-formed reply with a random answer."""

    def mistaken_reply(self, rng: np.random.Generator) -> str:
        """Return a well-formed reply that the verifier rejects in the present state."""
        while True:
            reply = self.random_reply(rng)
            if not self._judge(reply).is_right:
                return reply

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode. The same seed and options give the same episode.

        Raises InputError for options that do not describe a playable task.
        """
        super().reset(seed=seed)
        self._prompt = self._begin(dict(options or {}))
        self._remaining = self.verify_iter
        self._has_failed = False
        return self._observe(self._prompt.text, new_dialogue=1), self._info()

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Judge one reply. Raises gymnasium.error.ResetNeeded outside an episode."""
        if self._remaining == 0:
            raise gym.error.ResetNeeded("the episode has ended: call reset() before step()")
        verdict = self._judge(action)
        self._remaining -= 1
        kind = self._prompt.kind
        is_success = False
        obs = None
        if verdict.is_right or self._remaining == 0:
            self._has_failed |= not verdict.is_right
            following = self._advance(verdict.is_right)
            if following is None:
                is_success = not self._has_failed
                self._remaining = 0
            else:
                self._prompt = following
                self._remaining = self.verify_iter
                obs = self._observe(following.text, new_dialogue=1)
        if obs is None:
            obs = self._observe(verdict.feedback, new_dialogue=0)
        info = self._info(kind, verdict, is_success)
        return obs, verdict.reward, self._remaining == 0, False, info

    def _is_read(self, verdict: Verdict | None) -> bool | None:
        """Return whether an answer was found in the reply; None where nothing says so."""
        if verdict is None or self.answer_info is None:
            return None
        return bool(verdict.info[self.answer_info])

    def _observe(self, text: str, new_dialogue: int) -> dict[str, Any]:
        obs: dict[str, Any] = {"text": text, "new_dialogue": new_dialogue}
        if shows_images(self):
            obs["image"] = np.array(self._prompt.image)
        return obs

    def _info(
        self, kind: str | None = None, verdict: Verdict | None = None, is_success: bool = False
    ) -> dict[str, Any]:
        outcomes = verdict.outcomes if verdict else ()
        return {
            **self._prompt.info,
            **(verdict.info if verdict else {}),
            "outcome": outcomes[0] if outcomes else "",
            "outcomes": outcomes,
            "feedback": verdict.feedback if verdict else "",
            "is_right": bool(verdict and verdict.is_right),
            "is_success": is_success,
            "recognized": verdict.recognized if verdict else None,
            "is_read": self._is_read(verdict),
            "checks": dict(verdict.checks) if verdict else {},
            "kind": self._prompt.kind if kind is None else kind,
            "remaining_steps": self._remaining,
            "answer_field": self.answer_field,
        }
