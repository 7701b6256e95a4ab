"""An endpoint of the OpenAI chat-completions API: asks it, asks again where that may help, and says
in one line what went wrong where it does not.
"""

from __future__ import annotations

import email.utils
import json
import os
import random
import re
import sys
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

import openai
from openai import APIConnectionError, APIStatusError, APITimeoutError, OpenAI
from tqdm import tqdm

from gym_dialogue.errors import InputError

FIRST_WAIT = 1.0
"""Seconds before the second try; each further one waits twice as long."""
LONGEST_WAIT = 60.0
"""Seconds that the backoff grows to."""
LONGEST_RETRY_AFTER = 600.0
"""Seconds. An endpoint that asks for more patience (a quota of the day, say) is given up."""
_WORTH_SAYING = 5.0  # seconds of waiting

_NAMED = 20  # models, of those that an endpoint lists
_WANTED_URL = (
    "must be the root of an OpenAI-compatible API, such as https://api.openai.com/v1 or "
    "http://localhost:8000/v1"
)

_COUNTS = ("prompt_tokens", "completion_tokens")
_FILTERED = ("content_filter", "content_policy_violation")


@dataclass(frozen=True)
class Answer:
    """One reply of an endpoint: its text, why it ended there (`stop`, `length`, ...), and the
    tokens that it was charged with, None where the endpoint does not count them.
    """

    text: str
    finish_reason: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass
class Tally:
    """Replies and their tokens; `uncounted` replies came without a count."""

    replies: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0

    def add(self, answer: Answer) -> None:
        """Count one reply."""
        self.replies += 1
        self.prompt_tokens += answer.prompt_tokens or 0
        self.completion_tokens += answer.completion_tokens or 0
        self.uncounted += answer.completion_tokens is None

    def __str__(self) -> str:
        tokens = f"{self.prompt_tokens:,} prompt and {self.completion_tokens:,} completion tokens"
        uncounted = f", {self.uncounted:,} of them not counted" if self.uncounted else ""
        return f"{self.replies:,} replies ({tokens}{uncounted})"


@dataclass
class Usage:
    """What was asked for, and what it took. `retries` are the requests that repeat another."""

    requests: int = 0
    retries: int = 0
    arrived: Tally = field(default_factory=Tally)
    from_journal: Tally = field(default_factory=Tally)
    finish_reasons: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self) | {"finish_reasons": dict(self.finish_reasons)}

    def __str__(self) -> str:
        cut = self.finish_reasons["length"]
        return (
            f"{self.requests:,} requests ({self.retries:,} retries) brought {self.arrived}; "
            f"from the journal: {self.from_journal}; {cut:,} replies were cut at the token limit"
        )


class Endpoint:
    """A model behind an OpenAI-compatible API, at `base_url`, which ends before /chat/completions.

    The key is read from the environment variable `key_env`, and appears in nothing that this class
    says; without one, none is needed. A request gets `timeout` seconds, counted anew with every
    byte that arrives. Answers 408, 409, 429 and 5xx, broken connections and time-outs are tried
    again, up to `tries` times in all, after exponential backoff with jitter, or after what
    Retry-After asks for. Threads may ask at once; `usage` counts what they do, under `lock`.

    Raises InputError for an address or a variable that is none.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        key_env: str = "OPENAI_API_KEY",
        timeout: float = 120.0,
        tries: int = 8,
    ):
        _check_url(base_url)
        if not timeout > 0:
            raise InputError(f"timeout={timeout}: must be above 0 seconds")
        if tries < 1:
            raise InputError(f"tries={tries}: must be at least 1")
        self.base_url, self.model, self.key_env, self.tries = base_url, model, key_env, tries
        self.usage = Usage()
        self.lock = threading.Lock()
        self._key = _read_key(key_env)
        self._timeout = timeout
        self._client = OpenAI(
            base_url=base_url, api_key=self._key or "none", timeout=timeout, max_retries=0
        )
        self._stopped = threading.Event()
        self._was_reached = False
        self._said_at = -60.0

    def stop(self) -> None:
        """Let nothing more be asked for; requests under way end with the try that they are at."""
        self._stopped.set()

    def ask(self, messages: list[dict[str, Any]], settings: dict[str, Any]) -> Answer:
        """The model's reply to messages in the API's form, under further fields of the request.
        What the endpoint filters is an empty reply.

        Raises InputError for a failure, which stops the endpoint, and CancelledError once it has
        been stopped.
        """
        if self._stopped.is_set():
            raise CancelledError
        try:
            return self._ask(messages, settings)
        except InputError:
            self.stop()
            raise

    def _ask(self, messages: list[dict[str, Any]], settings: dict[str, Any]) -> Answer:
        for attempt in range(self.tries):
            with self.lock:
                self.usage.requests += 1
                self.usage.retries += attempt > 0
            try:
                response = self._client.chat.completions.with_raw_response.create(
                    model=self.model, messages=messages, extra_body=settings
                ).http_response
            except APIStatusError as error:
                self._was_reached = True
                if error.code in _FILTERED:
                    return Answer("", "content_filter", 0, 0)
                if not _may_pass(error):
                    raise self._refusal(error, messages) from None
                failure, asked = self._status(error), _retry_after(error)
            except APIConnectionError as error:
                failure, asked = self._connection(error), 0.0
                if not self._was_reached and not isinstance(error, APITimeoutError):
                    raise InputError(f"{failure}: is a server listening there?") from None
            else:
                self._was_reached = True
                return self._read(response.text)
            if attempt + 1 == self.tries or asked > LONGEST_RETRY_AFTER:
                break
            self._wait(attempt, asked, failure)
        tries = "1 try" if attempt == 0 else f"{attempt + 1} tries"
        raise InputError(
            f"{failure}, after {tries}; the replies so far are kept, and running again goes on "
            "from there"
        )

    def models(self) -> list[str]:
        """The names of the models that the endpoint lists; none if it does not say."""
        try:
            body = self._client.models.with_raw_response.list().http_response.text
            return [str(entry["id"]) for entry in json.loads(body)["data"]]
        except (openai.APIError, ValueError, KeyError, TypeError):
            return []

    def _wait(self, attempt: int, asked: float, failure: str) -> None:
        """Before the next try. Raises CancelledError where the endpoint is stopped meanwhile."""
        # Jitter, so that requests that failed together do not come back together.
        wait = min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1)
        wait = max(wait, asked * random.uniform(1, 1.1))
        with self.lock:
            is_news = wait >= _WORTH_SAYING and time.monotonic() > self._said_at + 30
            if is_news:
                self._said_at = time.monotonic()
        if is_news:
            tqdm.write(f"{failure}: trying again in {wait:.0f} s", file=sys.stderr)
        if self._stopped.wait(wait):
            raise CancelledError

    def _read(self, body: str) -> Answer:
        try:
            return read_answer(body)
        except ValueError as error:
            said = self._scrub(str(error))
            raise InputError(f"{self.base_url} answered {said}: base_url {_WANTED_URL}") from None

    def _status(self, error: APIStatusError) -> str:
        said = _said(self._scrub(error.response.text))
        return f"{self.base_url} answered {error.status_code}{said and f' ({said})'}"

    def _connection(self, error: APIConnectionError) -> str:
        if isinstance(error, APITimeoutError):
            return f"{self.base_url}: no answer within {self._timeout:g} s"
        return self._scrub(f"cannot reach {self.base_url} ({error.__cause__ or error})")

    def _refusal(self, error: APIStatusError, messages: list[dict[str, Any]]) -> InputError:
        """An answer that another try would not change, with what may be wrong."""
        line, status = self._status(error), error.status_code
        if status in (401, 403):
            held = f"check the key in {self.key_env}" if self._key else f"no key in {self.key_env}"
            return InputError(f"{line}: {held}, and whether it may use model {self.model}")
        hints = []
        listed = self.models() if status in (400, 404) else []
        if listed and self.model not in listed:
            names = ", ".join(sorted(listed)[:_NAMED]) + ", ..." * (len(listed) > _NAMED)
            hints.append(f"the models that it lists: {self._scrub(names)}")
        elif status == 404 and not listed:
            hints.append(f"base_url {_WANTED_URL}, and model a name that it serves")
        if any(isinstance(m["content"], list) for m in messages):
            hints.append("the request holds an image: name a model that reads images")
        if any(m["content"] == "" for m in messages):
            hints.append("the dialogue holds an empty reply: see --empty_reply")
        if re.search("max_tokens|temperature|seed", line):
            hints.append("see --max_tokens_field and --leave_out")
        return InputError("; ".join([f"model {self.model}: {line}", *hints]))

    def _scrub(self, text: str) -> str:
        """The text without the key."""
        return text.replace(self._key, f"[{self.key_env}]") if self._key else text


def read_answer(body: str) -> Answer:
    """The reply in a response's body. One without text (a refusal, or all of its tokens spent on
    reasoning) is empty. Raises ValueError, saying what the body is instead.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        what = "a web page" if body.lstrip().startswith("<") else "something that is no JSON"
        raise ValueError(what) from None
    try:
        choice = data["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        text = message.get("content") if reason else message["content"]
    except (KeyError, IndexError, TypeError, AttributeError):
        said = _said(body)
        raise ValueError(f"JSON without a reply{said and f' ({said})'}") from None
    if isinstance(text, list):  # parts, of which reasoning may be one
        text = "".join(str(p.get("text") or "") for p in text if isinstance(p, dict))
    if not isinstance(text, str | None):
        raise ValueError("JSON with a reply that is no text")
    # A lone surrogate, which JSON can hold, could not be sent back in the next turn.
    text = (text or "").encode("utf-8", "replace").decode()
    usage = data.get("usage")
    counts = [usage.get(k) if isinstance(usage, dict) else None for k in _COUNTS]
    counts = [count if isinstance(count, int) else None for count in counts]
    return Answer(text, str(reason or "unknown"), *counts)


def _may_pass(error: APIStatusError) -> bool:
    if error.code == "insufficient_quota":  # a 429 that waiting does not end
        return False
    return error.status_code in (408, 409, 429) or error.status_code >= 500


def _retry_after(error: APIStatusError) -> float:
    """Seconds that the endpoint asks to wait, given as such or as a date (RFC 9110, 10.2.3)."""
    asked = error.response.headers.get("retry-after", "")
    try:
        return max(float(asked), 0.0)
    except ValueError:
        date = email.utils.parsedate_tz(asked)
        return max(email.utils.mktime_tz(date) - time.time(), 0.0) if date else 0.0


def _said(body: str) -> str:
    """The message in the body of an error, in at most 200 characters of one line."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return "a web page" if body.lstrip().startswith("<") else _cut(body)
    while isinstance(data, dict):
        data = next((data[k] for k in ("error", "message", "detail") if data.get(k)), "")
    return _cut(data if isinstance(data, str) else json.dumps(data))


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:200] + "..."


def _check_url(base_url: str) -> None:
    if "@" in base_url or "?" in base_url:
        raise InputError(
            "base_url: holds a password or a query, which is no place for a key: give the key in "
            "the environment, and other settings with --extra_body"
        )
    try:
        parts = urlsplit(base_url)
        is_url = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or any(c.isspace() for c in base_url):
        raise InputError(f"base_url={base_url!r}: {_WANTED_URL}")


def _read_key(key_env: str) -> str:
    """The key, or nothing. What is wrong with it is said without showing it."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key_env):
        raise InputError("key_env: must be the name of an environment variable, not the key itself")
    key = os.environ.get(key_env, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InputError(f"{key_env}: is no key: it has odd characters")
    return key
