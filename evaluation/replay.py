"""Play recorded replies again: an evaluation records what was said and how it was judged, not what
was asked and shown, which follows from each episode's seed.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
import PIL.Image
from tqdm import tqdm

from evaluation.metrics import same_episodes
from evaluation.play import suite_env
from evaluation.records import EpisodeRecord, Records, episode_record
from evaluation.suites import SuiteConfig
from gym_dialogue import Episode, InputError, RecordedPolicy, Task, rollout
from gym_dialogue.images import Image, open_image
from gym_dialogue.make import make_envs

MAX_IMAGE_SIDE = 512
"""Pixels: a larger image is shrunk."""

_JPEG_QUALITY = 85


@dataclass(frozen=True)
class Utterance:
    """A message of a dialogue; a reply comes with what the verifier said of it."""

    role: Literal["user", "assistant"]
    text: str
    image: bytes | None = None
    """A PNG or JPEG file."""
    reward: float | None = None
    outcomes: tuple[str, ...] = ()
    """The primary one first."""
    feedback: str = ""
    is_right: bool = False
    recognized: bool | None = None


@dataclass(frozen=True)
class Played:
    """What one checkpoint made of an episode."""

    is_success: bool
    total_reward: float
    dialogues: list[list[Utterance]]
    """Each is a prompt and its replies; without the prompt where it could not be had again."""


@dataclass(frozen=True)
class Comparison:
    """The same seeded episode under several checkpoints, by label."""

    suite: str
    title: str
    """Of the suite."""
    shift: str
    """Of the suite, as in SuiteConfig."""
    decoding: str
    number: int
    """Of the episode, from 0, in its suite."""
    puzzle: str
    played: dict[str, Played]
    disagrees: bool = False
    """Whether, played again, it came out otherwise than recorded. What is shown is the record."""


def compare(
    results: Mapping[str, Records],
    suites: Sequence[SuiteConfig],
    verify_iter: int,
    prompt_file: str | None,
    per_suite: int = 6,
    seed: int = 0,
    decoding: str | None = None,
) -> list[Comparison]:
    """Play a sample of the episodes in `results` (the records of each checkpoint, by label) again:
    `per_suite` of each suite and decoding, or of one `decoding` only.

    The sample is balanced, not representative: the first and the last checkpoint take turns at
    having won alone, both having won and neither, as far as there are such episodes. The same
    `seed` gives the same sample. Suites without records are left out.

    Raises ValueError if the checkpoints did not play the same episodes, and InputError if an
    environment cannot be made.
    """
    chosen = _sample(results, suites, per_suite, seed, decoding)
    comparisons = []
    env, env_of = None, None
    for choice in tqdm(chosen, desc="play again", delay=3, leave=False):
        if env_of is not choice.suite:
            (env,) = make_envs(suite_env(choice.suite, verify_iter, prompt_file), 1)
            env_of = choice.suite
        comparisons.append(_comparison(choice, env))
    return comparisons


@dataclass(frozen=True)
class _Choice:
    """An episode of the sample, with its record of each checkpoint."""

    suite: SuiteConfig
    decoding: str
    number: int
    records: dict[str, EpisodeRecord]


def _sample(
    results: Mapping[str, Records],
    suites: Sequence[SuiteConfig],
    per_suite: int,
    seed: int,
    decoding: str | None,
) -> list[_Choice]:
    """Choose the episodes to show. Raises ValueError if checkpoints played different ones."""
    labels = list(results)
    chosen = []
    for suite_number, suite in enumerate(suites):
        for name in results[labels[0]] if decoding is None else [decoding]:
            if not all(suite.name in results[label].get(name, {}) for label in labels):
                continue
            played = {label: results[label][name][suite.name] for label in labels}
            if not same_episodes(*played.values()):
                raise ValueError(f"compare: suite {suite.name} is not of the same episodes")
            rng = np.random.default_rng([seed, suite_number])
            numbers = _balanced(played[labels[0]], played[labels[-1]], per_suite, rng)
            chosen += [
                _Choice(suite, name, number, {label: played[label][number] for label in labels})
                for number in numbers
            ]
    return chosen


def _comparison(choice: _Choice, env: Any) -> Comparison:
    """Play the recorded replies of an episode again."""
    again = {label: _play_again(env, record) for label, record in choice.records.items()}
    suite = choice.suite
    return Comparison(
        suite=suite.name,
        title=suite.title or suite.name,
        shift=suite.shift,
        decoding=choice.decoding,
        number=choice.number,
        puzzle=next(iter(choice.records.values())).puzzle,
        played={label: _shown(record, again[label]) for label, record in choice.records.items()},
        disagrees=any(episode is None for episode in again.values()),
    )


def _balanced(
    before: Sequence[EpisodeRecord],
    after: Sequence[EpisodeRecord],
    count: int,
    rng: np.random.Generator,
) -> list[int]:
    """Return the numbers of `count` episodes, in order, of every kind: who won and, among those,
    whose reward was higher.
    """
    kinds: dict[tuple[bool, bool], dict[float, list[int]]] = {
        (False, True): {},
        (True, False): {},
        (True, True): {},
        (False, False): {},
    }
    for number in rng.permutation(len(before)).tolist():
        a, b = before[number], after[number]
        change = float(np.sign(b.total_reward - a.total_reward))
        by_change = kinds[a.is_success, b.is_success]
        by_change.setdefault(change, []).append(number)
    return sorted(_in_turn(_in_turn(k.values()) for k in kinds.values())[:count])


def _in_turn(lists: Iterable[Iterable[int]]) -> list[int]:
    """Return the first of every list, then the second of every list, and so on."""
    rows = zip_longest(*lists)
    return [number for row in rows for number in row if number is not None]


def _play_again(env: Any, record: EpisodeRecord) -> Episode | None:
    """Return the episode of a record; None if it comes out otherwise than recorded."""
    policy = RecordedPolicy(turn.reply for turn in record.turns)
    task = Task(record.env_seed, (), record.options)
    try:
        (episode,) = rollout([env], policy, [task])
    except InputError:  # more replies are asked for than were recorded
        return None
    return episode if _judged(episode_record(episode)) == _judged(record) else None


def _judged(record: EpisodeRecord) -> tuple[Any, ...]:
    """Return what must be the same when an episode is played again."""
    turns = [(t.dialogue, t.reply, t.reward, t.outcomes, t.feedback) for t in record.turns]
    return record.puzzle, record.is_success, turns


def _shown(record: EpisodeRecord, again: Episode | None) -> Played:
    """Return a record with the prompts of the episode played again."""
    dialogues: dict[int, list[Utterance]] = {}
    for turn in record.turns:
        number = turn.dialogue
        if number not in dialogues:
            dialogues[number] = []
            if again is not None:
                prompt = again.dialogues[number].messages[0]
                image = None if prompt.image is None else encode_image(prompt.image)
                dialogues[number].append(Utterance("user", prompt.text, image))
        dialogues[number].append(
            Utterance(
                "assistant",
                turn.reply,
                reward=turn.reward,
                outcomes=turn.outcomes,
                feedback=turn.feedback,
                is_right=turn.is_right,
                recognized=turn.recognized,
            )
        )
    return Played(record.is_success, record.total_reward, list(dialogues.values()))


def encode_image(image: Image, max_side: int = MAX_IMAGE_SIDE) -> bytes:
    """Return an image as a PNG or a JPEG file, whichever is smaller, at most `max_side` pixels."""
    picture = PIL.Image.fromarray(open_image(image))
    picture.thumbnail((max_side, max_side))
    files = []
    for kind, options in (("PNG", {"optimize": True}), ("JPEG", {"quality": _JPEG_QUALITY})):
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        files.append(buffer.getvalue())
    return min(files, key=len)
