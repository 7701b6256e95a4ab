"""Plays environments with a policy. The only place where a dialogue grows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gym_dialogue.env import DialogueEnv
from gym_dialogue.messages import Dialogue, Message, Reply
from gym_dialogue.policy import Policy


@dataclass(frozen=True)
class Task:
    """An episode to play: what is dealt follows from `env_seed`, what is sampled from
    `sample_key`. Tasks that share an `env_seed` are tries at the same puzzle.
    """

    env_seed: int
    sample_key: tuple[int, ...]
    options: dict[str, Any] | None = None


@dataclass(frozen=True)
class Turn:
    """One reply and what the verifier said of it. `dialogue` indexes Episode.dialogues; `kind` is
    that of the position which it is about; `is_read` is whether an answer was found in it, None
    where the environment does not say.
    """

    dialogue: int
    reply: Reply
    reward: float
    outcomes: tuple[str, ...]
    feedback: str
    is_right: bool
    recognized: bool | None = None
    kind: str = ""
    is_read: bool | None = None
    checks: Mapping[str, bool] = field(default_factory=dict)
    """What else of the reply is right or not, by name."""

    @property
    def outcome(self) -> str:
        """Return the primary outcome."""
        return self.outcomes[0]


@dataclass
class Episode:
    """A played task: its dialogues, its turns in order, and the info of its reset."""

    task: Task
    info: dict[str, Any]
    dialogues: list[Dialogue] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    is_success: bool = False

    @property
    def puzzle(self) -> str:
        """Return the name of what was played, equal for episodes on the same hand or route."""
        return self.info["puzzle"]

    def turns_of(self, dialogue: int) -> list[int]:
        """Indices into `turns` of the replies in one dialogue."""
        return [i for i, turn in enumerate(self.turns) if turn.dialogue == dialogue]


class EpisodePlayer:
    """An environment with the episode that is played in it: each reply goes to the environment, and
    what it answers grows the dialogue. `rollout` has one for each environment; whoever plays
    episodes one at a time uses it by itself.
    """

    episode: Episode

    def __init__(self, env: Any):
        self.env = env
        self.expert: DialogueEnv = env.unwrapped

    def start(self, task: Task) -> Dialogue:
        """Begin an episode; return its dialogue, which ends with the prompt."""
        obs, info = self.env.reset(seed=task.env_seed, options=task.options)
        self.episode = Episode(task, info)
        self.shared: dict[str, Any] = {}
        self._hear(obs)
        return self.dialogue

    def _hear(self, obs: dict[str, Any]) -> None:
        episode = self.episode
        if obs["new_dialogue"]:
            key = (*episode.task.sample_key, len(episode.dialogues))
            episode.dialogues.append(Dialogue(key=key, expert=self.expert, shared=self.shared))
        image = obs.get("image") if obs["new_dialogue"] else None
        self.dialogue.messages.append(Message("user", obs["text"], image))

    @property
    def dialogue(self) -> Dialogue:
        """Return the dialogue that a reply is due in."""
        return self.episode.dialogues[-1]

    def answer(self, reply: Reply) -> bool:
        """Add the reply and play it; return True when that ended the episode."""
        episode = self.episode
        self.dialogue.messages.append(Message("assistant", reply.text, reply=reply))
        number = len(episode.dialogues) - 1
        obs, reward, terminated, truncated, info = self.env.step(reply.text)
        turn = Turn(
            number,
            reply,
            reward,
            info["outcomes"],
            info["feedback"],
            bool(info["is_right"]),
            info["recognized"],
            info["kind"],
            info["is_read"],
            info["checks"],
        )
        episode.turns.append(turn)
        if terminated or truncated:
            episode.is_success = info["is_success"]
            for dialogue in episode.dialogues:
                dialogue.expert = None  # its environment goes on to another task
            self.shared.clear()
            return True
        self._hear(obs)
        return False


def rollout(
    envs: Sequence[Any],
    policy: Policy,
    tasks: Iterable[Task],
    on_episode: Callable[[Episode], None] | None = None,
) -> list[Episode]:
    """Play every task to its end; every environment in use is answered in the same batch.

    `envs` are Gymnasium environments around a DialogueEnv, as many as may be active at once; a
    slot whose episode has ended takes the next waiting task. `tasks` is drawn from only when a slot
    is free, so it may decide as it goes how many there are. Returns the episodes in the order of
    `tasks`; `on_episode` is called with each as it ends.
    """
    episodes: dict[int, Episode] = {}
    waiting = enumerate(tasks)
    active: list[tuple[int, EpisodePlayer]] = []
    for env, (index, task) in zip(envs, waiting, strict=False):
        player = EpisodePlayer(env)
        player.start(task)
        active.append((index, player))
    while active:
        replies = policy.act([player.dialogue for _, player in active])
        still = []
        for (index, player), reply in zip(active, replies, strict=True):
            if player.answer(reply):
                episodes[index] = player.episode
                if on_episode:
                    on_episode(player.episode)
                following = next(waiting, None)
                if following is None:
                    continue
                index, task = following
                player.start(task)
            still.append((index, player))
        active = still
    return [episodes[index] for index in sorted(episodes)]
