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
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import openai
from openai import APIConnectionError, APIStatusError, APITimeoutError, OpenAI
from tqdm import tqdm

from gym_dialogue.errors import InputError
from gym_dialogue.messages import BEYOND_CONTEXT
from gym_policy.api.secret import Secret

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

_TEXTS = ("text", "finish_reason")
_COUNTS = ("prompt_tokens", "completion_tokens")
_FILTERED = ("content_filter", "content_policy_violation")
BROKEN_OFF = ("error", "network_error")
"""Finish reasons of what is no reply."""
_CONTEXT_CODE = re.compile(r"context_?(?:length|window|size|exceeded)", re.IGNORECASE)
# In the words of OpenAI, vLLM, SGLang, llama.cpp, TGI, Anthropic and Gemini.
_CONTEXT = re.compile(
    r"context[ _](?:length|size|window|limit)|max(?:imum)?[ _](?:model|sequence|input)[ _]len"
    r"|\binputs?\W{1,3}token|\b(?:prompt|input) is too long",
    re.IGNORECASE,
)
_BEYOND = re.compile(r"exceed|maximum|longer|greater|too (?:long|large)|<=", re.IGNORECASE)


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
    """What was asked for, and what it took. `retries` are the requests that repeat another;
    `finish_reasons` count the replies, those from the journal included.
    """

    requests: int = 0
    retries: int = 0
    arrived: Tally = field(default_factory=Tally)
    from_journal: Tally = field(default_factory=Tally)
    finish_reasons: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain data."""
        return asdict(self) | {"finish_reasons": dict(self.finish_reasons)}

    def __str__(self) -> str:
        cut, beyond = self.finish_reasons["length"], self.finish_reasons[BEYOND_CONTEXT]
        detail = (
            f"{self.requests:,} requests ({self.retries:,} retries) brought {self.arrived}; "
            f"from the journal: {self.from_journal}; {cut:,} replies were cut at the token limit"
        )
        return detail + f"; {beyond:,} would not fit in the model's context" * (beyond > 0)


@dataclass(frozen=True)
class Failure:
    """An error that an endpoint answered with. `status` is that of HTTP or, where an error comes
    as a 200 (`inside`), the one that it should have; `text` is the body or its message.
    """

    status: int
    codes: tuple[str, ...]
    text: str
    retry_after: float = 0.0
    inside: bool = False

    @property
    def may_pass(self) -> bool:
        """Return whether another try may help."""
        if "insufficient_quota" in self.codes:  # a 429 that waiting does not end
            return False
        return self.status in (408, 409, 429) or self.status >= 500

    @property
    def is_filtered(self) -> bool:
        """Return whether the endpoint will not have this dialogue answered."""
        return any(code in _FILTERED for code in self.codes)

    @property
    def is_beyond_context(self) -> bool:
        """Return whether the dialogue, with the room that a reply may take, is too long for the
        model.
        """
        if self.status not in (400, 413, 422, 500):
            return False
        if any(_CONTEXT_CODE.search(code) for code in self.codes):
            return True
        detail = _said(self.text)
        return bool(_CONTEXT.search(detail) and _BEYOND.search(detail))


class EndpointError(Exception):
    """Holds a failure."""

    def __init__(self, failure: Failure):
        super().__init__(failure)
        self.failure = failure


class Endpoint:
    """A model behind an OpenAI-compatible API, at `base_url`, which ends before /chat/completions.

    The key is read from the environment variable `key_env`, and appears in nothing that this class
    says; without one, none is needed. A request gets `timeout` seconds, counted anew with every
    byte that arrives. Answers 408, 409, 429 and 5xx, errors and nothing at all in an answer 200,
    broken connections and time-outs are tried again, up to `tries` times in all, after exponential
    backoff with jitter, or after what Retry-After asks for. Threads may ask at once; `usage` counts
    what they do, under `lock`.

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
        key = _read_key(key_env)
        self.secret = Secret(key, key_env)
        for name, value in (("base_url", base_url), ("model", model)):
            if self.secret.is_in(value):
                raise InputError(f"{name}: holds the key in {key_env}, which would be written down")
        self._timeout = timeout
        self._client = OpenAI(
            base_url=base_url, api_key=key or "none", timeout=timeout, max_retries=0
        )
        self._stopped = threading.Event()
        self._was_reached = False
        self._said_at = -60.0

    def stop(self) -> None:
        """Let nothing more be asked for; requests under way end with the try that they are at."""
        self._stopped.set()

    def ask(self, messages: list[dict[str, Any]], settings: dict[str, Any]) -> Answer:
        """Return the model's reply to messages in the API's form, under further fields of the
        request. What the endpoint filters is an empty reply, and so is that to a dialogue beyond
        the model's context (BEYOND_CONTEXT).

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
                return self._read(self._post(messages, settings))
            except EndpointError as error:
                failure = error.failure
                if failure.is_filtered:
                    return Answer("", "content_filter", 0, 0)
                if failure.is_beyond_context:
                    return Answer("", BEYOND_CONTEXT, 0, 0)
                if not failure.may_pass:
                    raise self._refusal(failure, messages) from None
                detail, asked = self._status(failure), failure.retry_after
            except APIConnectionError as error:
                detail, asked = self._connection(error), 0.0
                if not self._was_reached and not isinstance(error, APITimeoutError):
                    raise InputError(f"{detail}: is a server listening there?") from None
            if attempt + 1 == self.tries or asked > LONGEST_RETRY_AFTER:
                break
            self._wait(attempt, asked, detail)
        tries = "1 try" if attempt == 0 else f"{attempt + 1} tries"
        raise InputError(
            f"{detail}, after {tries}; the replies so far are kept, and running again goes on "
            "from there"
        )

    def _post(self, messages: list[dict[str, Any]], settings: dict[str, Any]) -> str:
        """Return the body of a good answer. Raises EndpointError and APIConnectionError."""
        try:
            response = self._client.chat.completions.with_raw_response.create(
                model=self.model, messages=messages, extra_body=settings
            ).http_response
        except APIStatusError as error:
            self._was_reached = True
            codes = _codes(error.body)
            text, after = error.response.text, _retry_after(error)
            raise EndpointError(Failure(error.status_code, codes, text, after)) from None
        self._was_reached = True
        return response.text

    def models(self) -> list[str]:
        """Return the names of the models that the endpoint lists; none if it does not say."""
        try:
            body = self._client.models.with_raw_response.list().http_response.text
            return [self.secret.scrub(str(entry["id"])) for entry in json.loads(body)["data"]]
        except (openai.APIError, ValueError, KeyError, TypeError):
            return []

    def _wait(self, attempt: int, asked: float, detail: str) -> None:
        """Before the next try. Raises CancelledError where the endpoint is stopped meanwhile."""
        # Jitter, so that requests that failed together do not come back together.
        wait = min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1)
        wait = max(wait, asked * random.uniform(1, 1.1))
        with self.lock:
            is_news = wait >= _WORTH_SAYING and time.monotonic() > self._said_at + 30
            if is_news:
                self._said_at = time.monotonic()
        if is_news:
            tqdm.write(f"{detail}: trying again in {wait:.0f} s", file=sys.stderr)
        if self._stopped.wait(wait):
            raise CancelledError

    def _read(self, body: str) -> Answer:
        try:
            answer = read_answer(body)
        except ValueError as error:
            detail = self._show(str(error))
            raise InputError(f"{self.base_url} answered {detail}: base_url {_WANTED_URL}") from None
        if self.secret.is_in(body):  # of an endpoint that repeats what it was sent
            shown = {name: self.secret.scrub(getattr(answer, name)) for name in _TEXTS}
            answer = replace(answer, **shown)
        return answer

    def _status(self, failure: Failure) -> str:
        detail = self._show(_said(failure.text))
        kind = "200 without a reply" if failure.inside else str(failure.status)
        return f"{self.base_url} answered {kind}{detail and f' ({detail})'}"

    def _connection(self, error: APIConnectionError) -> str:
        if isinstance(error, APITimeoutError):
            return f"{self.base_url}: no answer within {self._timeout:g} s"
        return f"cannot reach {self.base_url} ({self._show(str(error.__cause__ or error))})"

    def _show(self, text: str) -> str:
        """Return a text for an error's line: without the key, and only then cut short."""
        return _cut(self.secret.scrub(text))

    def _refusal(self, failure: Failure, messages: list[dict[str, Any]]) -> InputError:
        """Return an answer that another try would not change, with what may be wrong."""
        line, status = self._status(failure), failure.status
        if status in (401, 403):
            held = (
                f"check the key in {self.key_env}" if self.secret else f"no key in {self.key_env}"
            )
            return InputError(f"{line}: {held}, and whether it may use model {self.model}")
        hints = []
        listed = self.models() if status in (400, 404) else []
        if listed and self.model not in listed:
            names = ", ".join(sorted(listed)[:_NAMED]) + ", ..." * (len(listed) > _NAMED)
            hints.append(f"the models that it lists: {names}")
        elif status == 404 and not listed:
            hints.append(f"base_url {_WANTED_URL}, and model a name that it serves")
        if any(isinstance(m["content"], list) for m in messages):
            hints.append("the request holds an image: name a model that reads images")
        if any(m["content"] == "" for m in messages):
            hints.append("the dialogue holds an empty reply: see --empty_reply")
        if re.search("max_tokens|temperature|seed", line):
            hints.append("see --max_tokens_field and --leave_out")
        return InputError("; ".join([f"model {self.model}: {line}", *hints]))


def read_answer(body: str) -> Answer:
    """Return the reply in a response's body. One without text (a refusal, or all of its tokens
    spent on reasoning) is empty. Raises EndpointError where the body holds an error, or breaks off,
    and ValueError, saying what it is instead, where it is no answer of such an API at all.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        start = body.lstrip()[:1]
        if start in ("", "{"):  # nothing, or not the whole of it
            raise _inside(None, start and "half of an answer") from None
        raise ValueError("a web page" if start == "<" else "something that is no JSON") from None
    if isinstance(data, dict) and (data.get("error") or not data.get("choices")):
        raise _inside(data.get("error") or data, body)
    try:
        choice = data["choices"][0]
        message, reason = choice.get("message"), choice.get("finish_reason")
        if choice.get("error") or reason in BROKEN_OFF:
            raise _inside(choice.get("error"), json.dumps({"error": choice.get("error") or reason}))
        text = message.get("content") if reason else message["content"]
    except (KeyError, IndexError, TypeError, AttributeError):
        detail = _said(body)
        raise ValueError(f"JSON without a reply{detail and f' ({detail})'}") from None
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


def _inside(error: Any, text: str) -> EndpointError:
    """Return an error in an answer 200: one that may pass, unless its code is of the key, the
    credit, or the model's name.
    """
    codes = _codes(error)
    final = [int(code) for code in codes if code in ("401", "402", "403", "404")]
    return EndpointError(Failure(final[0] if final else 500, codes, text, inside=True))


def _codes(error: Any) -> tuple[str, ...]:
    """Return what an error calls itself."""
    if not isinstance(error, dict):
        return ()
    return tuple(str(error[key]) for key in ("code", "type") if error.get(key))


def _retry_after(error: APIStatusError) -> float:
    """Seconds that the endpoint asks to wait, given as such or as a date (RFC 9110, 10.2.3)."""
    asked = error.response.headers.get("retry-after", "")
    try:
        return max(float(asked), 0.0)
    except ValueError:
        date = email.utils.parsedate_tz(asked)
        return max(email.utils.mktime_tz(date) - time.time(), 0.0) if date else 0.0


def _said(body: str) -> str:
    """Return the message in the body of an error, decoded, whole."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return "a web page" if body.lstrip().startswith("<") else body
    while isinstance(data, dict):
        data = next((data[k] for k in ("error", "message", "detail") if data.get(k)), "")
    return data if isinstance(data, str) else json.dumps(data)


def _cut(text: str) -> str:
    """At most 200 characters of one line."""
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
    """Return the key, or nothing. What is wrong with it is said without showing it."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key_env):
        raise InputError("key_env: must be the name of an environment variable, not the key itself")
    key = os.environ.get(key_env, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InputError(f"{key_env}: is no key: it has odd characters")
    return key
