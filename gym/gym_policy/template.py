"""Renders chat templates, which are programs that come with a checkpoint, within bounds."""

from __future__ import annotations

import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from gym_dialogue.errors import InputError

_SECONDS = 10.0  # of this thread's CPU time, so that a busy machine makes no difference
_BYTES = 1 << 30  # of memory beyond what the process has
_CHARACTERS = 1_000_000  # of a prompt, beyond what the messages say
_LOOKS_EVERY = 0.25  # seconds

# Llama 3 templates write the day into the system prompt: fixed, so that runs can be repeated.
_DATE = "26 Jul 2024"

_FAULTS = (
    TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


class _TooLong(BaseException):
    """Not an Exception, which the template engine may take for the template's own."""


def check_template_kwargs(
    tokenizer: PreTrainedTokenizerBase, kwargs: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Arguments for the template. Raises InputError for names that mean something else."""
    taken = {*signature(tokenizer.apply_chat_template).parameters, "messages"} - {"kwargs"}
    for name in kwargs or {}:
        if name in taken:
            raise InputError(
                f"chat_template_kwargs.{name}: is no argument of the template; name variables that "
                "it reads, such as enable_thinking"
            )
    return dict(kwargs or {})


def render_template(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool,
    kwargs: Mapping[str, Any],
) -> str:
    """Return what the tokenizer's template writes for messages. Raises InputError where it does not
    take them, or does not come to an end within bounds of time, memory and length.
    """

    def render() -> str:
        return tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **{"date_string": _DATE, **kwargs},
        )

    try:
        text = _within_bounds(render)
    except _FAULTS as error:
        content = [message["content"] for message in messages]
        parts = [part for c in content if not isinstance(c, str) for part in c]
        shown = " and an image" if any(part["type"] == "image" for part in parts) else ""
        roles = ", ".join(message["role"] for message in messages)
        reason = str(error) or type(error).__name__
        raise InputError(
            f"the chat template does not take messages of {roles}{shown}: {reason}"
        ) from error
    except MemoryError as error:
        raise InputError(
            f"the chat template takes more than {_BYTES >> 20} MB of memory: set another"
        ) from error
    except _TooLong as error:
        raise InputError(
            f"the chat template has not ended after {_SECONDS:g} seconds of work: set another"
        ) from error
    if len(text) > _CHARACTERS + 2 * len(str(messages)):
        raise InputError(
            f"the chat template writes {len(text):,} characters around "
            f"{len(str(messages)):,}: set another"
        )
    return text


def _within_bounds(render: Callable[[], str]) -> str:
    """Interrupts are the main thread's, and Linux alone keeps to a limit of memory: elsewhere there
    are no bounds but that of length.
    """
    if threading.current_thread() is not threading.main_thread() or sys.platform != "linux":
        return render()
    with _bounded_memory(), _bounded_time():
        return render()


@contextmanager
def _bounded_time() -> Iterator[None]:
    end = time.thread_time() + _SECONDS

    def look(*_: object) -> None:
        if time.thread_time() > end:
            raise _TooLong

    handler = signal.signal(signal.SIGALRM, look)
    timer = signal.setitimer(signal.ITIMER_REAL, _LOOKS_EVERY, _LOOKS_EVERY)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


@contextmanager
def _bounded_memory() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _BYTES
    if resource.RLIM_INFINITY != soft < limit:
        limit = soft
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
