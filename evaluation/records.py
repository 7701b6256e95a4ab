"""What an evaluation records of each episode: made from a rollout, kept in files, read by metrics
and reports.

A file of records (evaluations/*.json of a run, measured/*.json.gz of a study) holds episodes by
decoding and suite. turns.jsonl holds a line for each turn, with what is recorded of its episode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gym_dialogue import Episode
from gym_dialogue.checks import is_integer

_READ = "_read"  # how checks of reading are named

CUT = ("length", "max_tokens", "model_length")
"""Why a reply ended, in the words of several APIs, where it was cut at the token limit."""


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One reply with its verdict. The last five fields are None or empty where the environment or
    the policy does not say, and in records from before they were kept.
    """

    dialogue: int
    """Which of the episode's dialogues it is in, from 0: the position that it is about."""
    reply: str
    reward: float
    outcomes: tuple[str, ...]
    """Names of the verifier's outcomes, the primary one first."""
    feedback: str
    is_right: bool
    tokens: int
    """Sampled tokens; 0 where the policy does not count them."""
    recognized: bool | None = None
    """Whether the reply says rightly what there is to see."""
    kind: str = ""
    """Of the position."""
    is_read: bool | None = None
    """Whether an answer was found in the reply."""
    finish: str = ""
    """Why the reply ended, in the words of whatever sampled it."""
    checks: dict[str, bool] = field(default_factory=dict)
    """What else of the reply is right or not, by name, where the environment says so."""

    @property
    def outcome(self) -> str:
        """Return the primary outcome."""
        return self.outcomes[0]

    @property
    def reason(self) -> str:
        """Return in a word or two why it is not right (`right`, if it is): it was cut or not read,
        it misread what it plays by (a check named `rule_read`, say), or else the primary outcome.
        """
        if self.is_right:
            return "right"
        if self.finish.lower() in CUT:
            return "cut"
        if self.is_read is False:
            return "not read"
        misread = [n for n, is_right in self.checks.items() if n.endswith(_READ) and not is_right]
        if misread:
            return f"{misread[0].removesuffix(_READ)} misread"
        return self.outcome.lower().replace("_", " ")

    def to_json(self) -> dict[str, Any]:
        """Return the turn as plain data."""
        checks = {"checks": self.checks} if self.checks else {}
        return checks | {
            "dialogue": self.dialogue,
            "reply": self.reply,
            "reward": self.reward,
            "outcome": self.outcome,
            "outcomes": list(self.outcomes),
            "feedback": self.feedback,
            "is_right": self.is_right,
            "recognized": self.recognized,
            "kind": self.kind,
            "is_read": self.is_read,
            "finish": self.finish,
            "tokens": self.tokens,
        }

    @classmethod
    def from_json(cls, data: Any) -> TurnRecord:
        """Read what `to_json` returned, among other keys. Raises ValueError for anything else."""
        outcomes = _value(data, "outcomes", list)
        if not outcomes or not all(isinstance(outcome, str) for outcome in outcomes):
            raise ValueError(f"outcomes={outcomes!r}: must be a list of names, at least one")
        return cls(
            dialogue=_value(data, "dialogue", int),
            reply=_value(data, "reply", str),
            reward=_value(data, "reward", float),
            outcomes=tuple(outcomes),
            feedback=_value(data, "feedback", str),
            is_right=_value(data, "is_right", bool),
            tokens=_value(data, "tokens", int),
            recognized=_optional(data, "recognized", bool, None),
            kind=_optional(data, "kind", str, ""),
            is_read=_optional(data, "is_read", bool, None),
            finish=_optional(data, "finish", str, ""),
            checks=_checks(data),
        )


def _checks(data: Any) -> dict[str, bool]:
    checks: dict[str, bool] = _optional(data, "checks", dict, {})
    if not all(isinstance(value, bool) for value in checks.values()):
        raise ValueError(f"checks={checks!r}: must be true or false by name")
    return checks


@dataclass(slots=True)
class EpisodeRecord:
    """A seeded episode with its turns in order."""

    env_seed: int
    puzzle: str
    """The name of what was played, equal for episodes on the same hand or route."""
    is_success: bool
    turns: list[TurnRecord]
    options: dict[str, Any] | None = None
    """Of the environment's reset, where there were some."""

    @property
    def total_reward(self) -> float:
        """Return the sum of the turns' rewards."""
        return sum(turn.reward for turn in self.turns)

    def positions(self, kind: str = "") -> list[list[TurnRecord]]:
        """Return the turns of each position, of those of that kind if one is given."""
        positions: dict[int, list[TurnRecord]] = {}
        for turn in self.turns:
            if not kind or turn.kind == kind:
                positions.setdefault(turn.dialogue, []).append(turn)
        return list(positions.values())

    def shared_json(self) -> dict[str, Any]:
        """Return all but the turns as plain data."""
        options = {} if self.options is None else {"options": self.options}
        return options | {
            "env_seed": self.env_seed,
            "puzzle": self.puzzle,
            "is_success": self.is_success,
        }

    def to_json(self) -> dict[str, Any]:
        """Return the episode as plain data."""
        return self.shared_json() | {"turns": [turn.to_json() for turn in self.turns]}

    @classmethod
    def from_json(cls, data: Any) -> EpisodeRecord:
        """Read what `to_json` returned, among other keys. Raises ValueError for anything else."""
        turns = [TurnRecord.from_json(turn) for turn in _value(data, "turns", list)]
        return cls(
            env_seed=_value(data, "env_seed", int),
            puzzle=_value(data, "puzzle", str),
            is_success=_value(data, "is_success", bool),
            turns=turns,
            options=_optional(data, "options", dict, None),
        )


Records = dict[str, dict[str, list[EpisodeRecord]]]
"""The episodes of one checkpoint by decoding and suite."""

Results = dict[str, Records]
"""Records of each checkpoint, by label. The first checkpoint is what others are compared with."""


def episode_record(episode: Episode) -> EpisodeRecord:
    """Return what is kept of a played episode."""
    turns = [
        TurnRecord(
            dialogue=turn.dialogue,
            reply=turn.reply.text,
            reward=turn.reward,
            outcomes=tuple(turn.outcomes),
            feedback=turn.feedback,
            is_right=turn.is_right,
            tokens=len(turn.reply.token_ids),
            recognized=turn.recognized,
            kind=turn.kind,
            is_read=turn.is_read,
            finish=turn.reply.finish,
            checks=dict(turn.checks),
        )
        for turn in episode.turns
    ]
    task = episode.task
    return EpisodeRecord(task.env_seed, episode.puzzle, episode.is_success, turns, task.options)


def records_to_json(records: Records) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return records as plain data."""
    return {
        decoding: {suite: [e.to_json() for e in episodes] for suite, episodes in by_suite.items()}
        for decoding, by_suite in records.items()
    }


def records_from_json(data: Any) -> Records:
    """Read what `records_to_json` returned. Raises ValueError for anything else."""
    if not isinstance(data, dict) or not all(isinstance(d, dict) for d in data.values()):
        raise ValueError("must hold episodes by decoding and suite")
    return {
        decoding: {
            suite: [EpisodeRecord.from_json(episode) for episode in _value(by_suite, suite, list)]
            for suite in by_suite
        }
        for decoding, by_suite in data.items()
    }


def turn_rows(results: Mapping[str, Records]) -> Iterator[dict[str, Any]]:
    """Yield the lines of turns.jsonl."""
    for label, records in results.items():
        for decoding, by_suite in records.items():
            for suite, episodes in by_suite.items():
                where = {"checkpoint": label, "decoding": decoding, "suite": suite}
                for number, episode in enumerate(episodes):
                    for index, turn in enumerate(episode.turns):
                        place = {"episode": number, "turn": index}
                        yield where | place | episode.shared_json() | turn.to_json()


class TurnReader:
    """Puts the lines of turns.jsonl together again, in whatever order they come."""

    def __init__(self) -> None:
        self._episodes: dict[str, dict[str, dict[str, dict[int, EpisodeRecord]]]] = {}

    def add(self, row: Any) -> None:
        """Take a line. Raises ValueError for one that is no turn of an evaluation."""
        label, decoding, suite = (
            _value(row, key, str) for key in ("checkpoint", "decoding", "suite")
        )
        number = _value(row, "episode", int)
        turn = TurnRecord.from_json(row)
        by_suite = self._episodes.setdefault(label, {}).setdefault(decoding, {})
        episodes = by_suite.setdefault(suite, {})
        if number not in episodes:
            episodes[number] = EpisodeRecord.from_json(row | {"turns": []})
        episodes[number].turns.append(turn)

    def results(self) -> Results:
        """Return the records of every checkpoint, each suite's episodes in order."""
        return {
            label: {
                decoding: {
                    suite: [episodes[number] for number in sorted(episodes)]
                    for suite, episodes in by_suite.items()
                }
                for decoding, by_suite in by_decoding.items()
            }
            for label, by_decoding in self._episodes.items()
        }


def _value(data: Any, key: str, kind: type) -> Any:
    """Return a value of the kind; float stands for any number. Raises ValueError."""
    value = data.get(key) if isinstance(data, dict) else None
    if kind is int:
        fits = is_integer(value)
    else:
        fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits:
        raise ValueError(f"{key}={value!r}: must be of type {kind.__name__}")
    return value


def _optional(data: dict[str, Any], key: str, kind: type, default: Any) -> Any:
    """Return a value of the kind, or the default where there is none. Raises ValueError."""
    return default if data.get(key) is None else _value(data, key, kind)
