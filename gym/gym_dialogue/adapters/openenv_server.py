"""OpenEnv: an environment behind a server, many sessions at a time.

    python -m gym_dialogue.adapters.openenv_server --env_id gym_virl/Navigation-v0 --port 8000

A client needs nothing of this project:

    with openenv.core.GenericEnvClient(base_url="http://localhost:8000").sync() as env:
        result = env.reset(seed=0)
        messages = result.observation["messages"]   # as the chat completions API takes them
        result = env.step({"text": reply})          # .reward, .done, .observation
"""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from gym_dialogue.adapters.episodes import at_least_one, check_seeds, json_object, make, reply
from gym_dialogue.adapters.library import library
from gym_dialogue.chat import chat_message
from gym_dialogue.errors import InputError
from gym_dialogue.rollout import EpisodePlayer, Task

with library("openenv"):
    import uvicorn
    from openenv.core.env_server import create_app
    from openenv.core.env_server.interfaces import Environment
    from openenv.core.env_server.types import Action, Observation, State


class ReplyAction(Action):
    """The text of a reply."""

    text: str


class DialogueObservation(Observation):
    """What a reply is due to: `messages` of the present dialogue, as the chat completions API takes
    them, the verifier's last; none once the episode has ended. Of the reply before it: `outcomes`,
    the primary one first, `feedback`, and whether it `is_right`.
    """

    messages: list[dict[str, Any]]
    outcomes: list[str] = []
    feedback: str = ""
    is_right: bool | None = None


class EpisodeState(State):
    """The episode: its seed and puzzle, the rewards so far, and whether it ended in success."""

    env_seed: int | None = None
    puzzle: str = ""
    rewards: list[float] = []
    is_success: bool = False


class DialogueServerEnv(Environment[ReplyAction, DialogueObservation, EpisodeState]):
    """One session's environment."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, env_id: str, kwargs: Mapping[str, Any]):
        super().__init__()
        self.player = EpisodePlayer(make(env_id, kwargs)[0])
        self._state = EpisodeState()
        self._is_over = True

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, **options: Any
    ) -> DialogueObservation:
        """Begin the episode of a seed, or of one that is drawn. Raises InputError for options that
        the environment cannot play.
        """
        (seed,) = check_seeds(1, secrets.randbelow(2**31) if seed is None else seed)
        self.player.start(Task(seed, (seed,), options))
        self._is_over = False
        puzzle = self.player.episode.puzzle
        self._state = EpisodeState(episode_id=episode_id, env_seed=seed, puzzle=puzzle)
        return DialogueObservation(messages=_chat(self.player))

    def step(
        self, action: ReplyAction, timeout_s: float | None = None, **_: Any
    ) -> DialogueObservation:
        """Play a reply. Raises InputError where no episode is under way."""
        if self._is_over:
            raise InputError("step: no episode is under way; reset first")
        self._is_over = self.player.answer(reply(action.text))
        turn = self.player.episode.turns[-1]
        self._state.step_count += 1
        self._state.rewards += [turn.reward]
        self._state.is_success = self.player.episode.is_success
        return DialogueObservation(
            done=self._is_over,
            reward=turn.reward,
            messages=[] if self._is_over else _chat(self.player),
            outcomes=list(turn.outcomes),
            feedback=turn.feedback,
            is_right=turn.is_right,
        )

    @property
    def state(self) -> EpisodeState:
        """Return the state of the episode."""
        return self._state


def _chat(player: EpisodePlayer) -> list[dict[str, Any]]:
    return [chat_message(message) for message in player.dialogue.messages]


def make_app(env_id: str, kwargs: Mapping[str, Any] | None = None, sessions: int = 64) -> Any:
    """Return a FastAPI application. Raises InputError for an environment that cannot be made."""
    make = partial(DialogueServerEnv, env_id, kwargs or {})
    make()
    return create_app(
        make,
        ReplyAction,
        DialogueObservation,
        env_name=env_id.partition("/")[2] or env_id,
        max_concurrent_envs=sessions,
        state_cls=EpisodeState,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve an environment until interrupted."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--env_id", default="gym_cards/GeneralPoint-oneline-v0")
    parser.add_argument("--kwargs", type=json_object, default={}, help="of the environment")
    parser.add_argument("--sessions", type=at_least_one, default=64, help="at a time")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, choices=range(65536), metavar="PORT", default=8000)
    given = parser.parse_args(arguments)
    try:
        app = make_app(given.env_id, given.kwargs, given.sessions)
    except InputError as error:
        parser.error(str(error))
    uvicorn.run(app, host=given.host, port=given.port)


if __name__ == "__main__":
    main()
