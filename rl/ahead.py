"""Sampling the next update's episodes by servers while the present one is learned."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from gym_dialogue import Episode


@dataclass(frozen=True)
class Played:
    """Episodes, and the update after which the weights were that sampled them."""

    episodes: list[Episode]
    version: int


class Ahead:
    """At most one update's episodes, played in a thread of their own."""

    def __init__(self) -> None:
        self._version = 0
        self._future: Future[list[Episode]] | None = None

    def start(self, version: int, play: Callable[[], list[Episode]]) -> None:
        """Begin to play, by the weights of a version."""
        assert self._future is None, "episodes of one update at a time"
        future: Future[list[Episode]] = Future()

        def run() -> None:
            try:
                future.set_result(play())
            except BaseException as error:  # whoever takes the result meets it
                future.set_exception(error)

        self._version, self._future = version, future
        threading.Thread(target=run, daemon=True).start()

    def wait(self) -> None:
        """Wait until nothing is played any more."""
        if self._future is not None:
            self._future.exception()

    def take(self) -> Played | None:
        """Return what was played since `start`, once it has ended; None where nothing was begun.
        Raises what the playing has raised.
        """
        future, self._future = self._future, None
        return None if future is None else Played(future.result(), self._version)
