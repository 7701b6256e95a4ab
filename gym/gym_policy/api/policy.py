"""The policy that is a model behind an OpenAI-compatible API."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from typing import Any, Literal

import numpy as np

from gym_dialogue.chat import chat_message
from gym_dialogue.errors import InputError
from gym_dialogue.images import Image, open_image
from gym_dialogue.messages import Dialogue, Message, Reply
from gym_dialogue.policy import Policy
from gym_policy.api.endpoint import Endpoint
from gym_policy.api.journal import Journal, request_key

_SAMPLING_STREAM = 1  # of Dialogue.rng, as for models that are sampled here

MAX_CONCURRENCY = 1000
"""Connections that the client keeps."""

MaxTokensField = Literal["max_tokens", "max_completion_tokens"]
Setting = Literal["temperature", "seed", "max_tokens"]
_OWN_FIELDS = (
    *("model", "messages", "stream", "n"),
    *("temperature", "seed", "max_tokens", "max_completion_tokens"),
)


class ApiPolicy(Policy):
    """A model behind an API that answers dialogues, `concurrency` requests at a time.

    At `temperature` 0 decoding is greedy; above, each request carries a seed that follows from its
    dialogue's key, so an endpoint that heeds seeds samples the same replies again. Replies end at
    `max_new_tokens`, which the request calls `max_tokens_field`. The settings in `leave_out` are
    not sent, and those of `extra_body` are, beside these. Where a dialogue holds a reply without
    text, `empty_reply` is sent for it.

    A reply that is in the `journal` is taken from there; one that arrives is added to it at once.
    Raises InputError for settings that are none, and, from `act`, where the endpoint fails.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        journal: Journal,
        temperature: float = 0.0,
        max_new_tokens: int = 512,
        concurrency: int = 16,
        max_tokens_field: MaxTokensField = "max_tokens",
        leave_out: Sequence[Setting] = (),
        extra_body: dict[str, Any] | None = None,
        empty_reply: str = "",
    ):
        if not temperature >= 0:
            raise InputError(f"temperature={temperature}: must not be negative")
        if not 1 <= concurrency <= MAX_CONCURRENCY:
            raise InputError(f"concurrency={concurrency}: must be from 1 to {MAX_CONCURRENCY}")
        own = sorted(set(extra_body or {}) & set(_OWN_FIELDS))
        if own:
            raise InputError(
                f"extra_body: {', '.join(own)}: is set by an option of its own, or not"
            )
        if endpoint.secret.is_in(json.dumps(extra_body or {})):
            raise InputError("extra_body: holds the key, which would be written down")
        self.endpoint, self.journal, self.concurrency = endpoint, journal, concurrency
        self.temperature, self.max_new_tokens = temperature, max_new_tokens
        self.max_tokens_field, self.leave_out = max_tokens_field, frozenset(leave_out)
        self.extra_body, self.empty_reply = dict(extra_body or {}), empty_reply

    def act(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        """Return one reply to each dialogue, in order. Where one fails, no more are asked for, but
        those under way are waited for and kept.
        """
        with ThreadPoolExecutor(self.concurrency) as pool:
            futures = [pool.submit(self._reply, dialogue) for dialogue in dialogues]
            try:
                done = wait(futures, return_when=FIRST_EXCEPTION).done
                failed = [e for e in (future.exception() for future in done) if e is not None]
                if failed:  # what failed, rather than what was given up because of it
                    raise min(failed, key=lambda e: isinstance(e, CancelledError))
            except BaseException:
                self.endpoint.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in futures]

    def _reply(self, dialogue: Dialogue) -> Reply:
        settings = self._settings(dialogue)
        shown = [[m.role, self._text(m), _digest(m.image)] for m in dialogue.messages]
        place = [*map(int, dialogue.key), dialogue.num_replies]
        key = request_key([self.endpoint.model, settings, shown, place])
        answer = self.journal.get(key)
        usage = self.endpoint.usage
        tally = usage.from_journal if answer else usage.arrived
        if answer is None:
            answer = self.endpoint.ask(
                [chat_message(m, self._text(m)) for m in dialogue.messages], settings
            )
            self.journal.add(key, answer)
        with self.endpoint.lock:
            tally.add(answer)
            usage.finish_reasons[answer.finish_reason] += 1
        return Reply(answer.text, finish=answer.finish_reason)

    def _settings(self, dialogue: Dialogue) -> dict[str, Any]:
        """Return the fields of the request beside the model and the messages."""
        fields = {"temperature": self.temperature, "max_tokens": self.max_new_tokens}
        if self.temperature > 0:  # 31 bits: what every endpoint's integers hold
            fields["seed"] = int(dialogue.rng(_SAMPLING_STREAM).integers(2**31))
        names = {"max_tokens": self.max_tokens_field}
        kept = {names.get(k, k): v for k, v in fields.items() if k not in self.leave_out}
        return kept | self.extra_body

    def _text(self, message: Message) -> str:
        is_reply = message.role == "assistant"
        return (message.text or self.empty_reply) if is_reply else message.text


def _digest(image: Image | None) -> str | None:
    """Return what tells an image from others: its shape and pixels."""
    if image is None:
        return None
    pixels = np.ascontiguousarray(open_image(image))
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()
