"""Oracle dialogues -> JSONL -> token sequences on which only the trained replies are learned."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from gym_command.files import atomic_file
from gym_command.ranges import NotNegative, Share
from gym_dialogue import Episode, InputError, Message, NoisyOraclePolicy, Policy, Task, rollout
from gym_dialogue.images import Image, image_size, save_image
from gym_dialogue.make import EnvConfig, make_envs
from gym_dialogue.messages import messages_to_json
from gym_policy.renderer import Rendered, Renderer
from gym_policy.vision import ProcessedImage, blank, feature_token, join_images

_NUM_ENVS = 64
_PLAYED_TOGETHER = 64
_TRIES = 100  # episodes for each dialogue that is wanted
_SHUFFLE_STREAM = 1
_ORDER_STREAM = 2
_VALIDATION_STREAM = 3
_IMAGE_TOKENS = 64


@dataclass
class SourceConfig:
    """One part of a mix of oracle dialogues."""

    env: EnvConfig = field(default_factory=EnvConfig)
    """Where the dialogues come from."""
    share: NotNegative = 1.0
    """Its share of the dialogues, relative to the other sources'."""
    error_rate: Share = 0.0
    """Probability of a mistake in each reply. Mistakes are context; the corrections are learned.
    With 0 every dialogue is a single-turn answer."""


def make_dialogues(
    sources: Sequence[SourceConfig],
    count: int,
    seed: int,
    image_dir: Path | None = None,
    show_progress: bool = True,
    stream: Sequence[int] = (),
) -> list[dict[str, list[dict]]]:
    """Return `count` successful oracle dialogues over all sources, shuffled, as `{"messages":
    [...]}`. Images go to files of `image_dir`, which is made if there are any. Raises ValueError if
    there are, and no place for them.

    The ranks make them in turn, and each returns all of them. Uses of one seed that are to share no
    dialogues but by chance differ in their `stream`.
    """
    state = PartialState()
    rank, world = state.process_index, state.num_processes
    sizes = _sizes([source.share for source in sources], count)
    dialogues = []  # ((source, episode, dialogue), record)

    def save(image: Image, where: tuple[int, ...]) -> str:
        if image_dir is None:
            raise ValueError("make_dialogues: the environments show images: name an image_dir")
        file = image_dir / f"{'-'.join(map(str, where))}.png"
        save_image(file, image)
        return f"{image_dir.name}/{file.name}"

    progress = tqdm(
        total=count // world,
        desc="oracle dialogues",
        unit="dialogue",
        mininterval=1,
        disable=not (show_progress and state.is_main_process),
    )
    with progress:
        for number, source in enumerate(sources):
            seeds = enumerate(_seeds([seed, number, *stream], sizes[number]))
            share = itertools.islice(seeds, rank, _TRIES * sizes[number], world)
            tasks = (Task(env_seed, (seed, number, i, *stream)) for i, env_seed in share)
            wanted = len(range(rank, sizes[number], world))
            for where, puzzle, messages in _oracle_dialogues(source, tasks, wanted):
                progress.update()
                saved = functools.partial(save, where=where)
                record = {"messages": messages_to_json(messages, saved), "puzzle": puzzle}
                dialogues.append((where, record))
    records = [record for _, record in sorted(gathered(dialogues), key=lambda pair: pair[0])]
    order = np.random.default_rng([seed, _SHUFFLE_STREAM]).permutation(len(records))
    return [records[i] for i in order]


def _oracle_dialogues(
    source: SourceConfig, tasks: Iterator[Task], wanted: int
) -> Iterator[tuple[tuple[int, ...], str, list[Message]]]:
    """Yield so many dialogues of a source: where each stands (source, episode, dialogue), its
    puzzle, its messages. Raises InputError where the tasks bring too few: an episode may bring
    several dialogues, or none, if all of its replies are mistakes.
    """
    envs = make_envs(source.env, _NUM_ENVS)
    missing = wanted
    for episode in _played(envs, NoisyOraclePolicy(source.error_rate), tasks) if wanted else ():
        for index, messages in itertools.islice(_successes(episode), missing):
            missing -= 1
            yield (*episode.task.sample_key[1:3], index), episode.puzzle, messages
        if not missing:
            return
    if missing:
        raise InputError(
            f"sources: {source.env.id} with error_rate={source.error_rate}: {_TRIES} "
            f"episodes for each dialogue are too few; {missing} are missing; lower it"
        )


def _successes(episode: Episode) -> Iterator[tuple[int, list[Message]]]:
    """Yield the dialogues of an episode that came to a right reply, by number, in which right
    replies alone are trained on.
    """
    for index in sorted({turn.dialogue for turn in episode.turns if turn.is_right}):
        turns = iter(episode.turns_of(index))
        yield (
            index,
            [
                message
                if message.role != "assistant"
                else Message("assistant", message.text, trained=episode.turns[next(turns)].is_right)
                for message in episode.dialogues[index].messages
            ],
        )


def check_shares(shares: Sequence[float]) -> None:
    """Raises InputError for shares of sources that describe no mix."""
    if not shares or min(shares) < 0 or not 0 < sum(shares) < math.inf:
        raise InputError("sources: need at least one, with shares from 0 up and one above it")


def _sizes(shares: Sequence[float], count: int) -> list[int]:
    """Return how many of `count` fall to each share; they add up to it."""
    check_shares(shares)
    total = sum(shares)
    ends = [round(count * end / total) for end in itertools.accumulate(shares)]
    return [end - begin for begin, end in itertools.pairwise([0, *ends])]


def _seeds(entropy: list[int], count: int) -> Iterator[int]:
    """Yield seeds without end; `count` are drawn at first."""
    known = 0
    while count:
        yield from np.random.SeedSequence(entropy).generate_state(count)[known:].tolist()
        known, count = count, 2 * count


def gathered(records: list[Any]) -> list[Any]:
    """Return those of all ranks."""
    return gather_object(records) if PartialState().num_processes > 1 else records


def _played(envs: Sequence[Any], policy: Policy, tasks: Iterator[Task]) -> Iterator[Episode]:
    """Yield the episodes of `tasks`, some at a time: all images together may be more than fits."""
    while some := list(itertools.islice(tasks, _PLAYED_TOGETHER)):
        yield from rollout(envs, policy, some)


def write_jsonl(path: str | Path, records: Sequence[dict]) -> None:
    """Write one JSON record a line."""
    with atomic_file(path) as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def hold_back(
    dialogues: Sequence[Sequence[Message]], share: float, seed: int
) -> tuple[list[Sequence[Message]], list[Sequence[Message]]]:
    """Return the dialogues to learn from, and those kept back to evaluate on: of random puzzles, as
    many as hold the share, all dialogues. Where data names no puzzle, a first prompt is one.

    Raises InputError for a share that leaves none to learn from.
    """
    by_puzzle: dict[str, list[int]] = {}
    for index, dialogue in enumerate(dialogues):
        prompt = next(message for message in dialogue if message.role == "user")
        name = prompt.puzzle or f"{prompt.image}\n{prompt.text}"
        by_puzzle.setdefault(name, []).append(index)
    groups = list(by_puzzle.values())
    kept: set[int] = set()
    for number in np.random.default_rng([seed, _VALIDATION_STREAM]).permutation(len(groups)):
        if len(kept) >= share * len(dialogues):
            break
        kept.update(groups[number])
    if len(kept) == len(dialogues):
        raise InputError(
            f"validation={share}: leaves none of {len(dialogues)} dialogues on {len(groups)} "
            "puzzles to learn from"
        )
    return (
        [d for i, d in enumerate(dialogues) if i not in kept],
        [d for i, d in enumerate(dialogues) if i in kept],
    )


class DialogueItems(torch.utils.data.Dataset):
    """Dialogues as `rendered` and `labels`: -100 everywhere but on tokens of trained replies, and
    with `learns_prompts` on what is outside of replies. Those with an image are rendered anew each
    time, since images as the model takes them are large.
    """

    def __init__(
        self,
        dialogues: Sequence[Sequence[Message]],
        renderer: Renderer,
        learns_prompts: bool = False,
    ):
        self.dialogues, self.renderer = dialogues, renderer
        self.learns_prompts = learns_prompts
        self.has_image = [any(m.image is not None for m in d) for d in dialogues]
        self.rendered = [
            renderer.render([replace(m, image=None) for m in messages] if has else messages)
            for messages, has in zip(dialogues, self.has_image, strict=True)
        ]
        lengths = [len(rendered.token_ids) for rendered in self.rendered]
        # An image takes about as long as so many tokens; those with one are kept together.
        self.lengths = np.array(lengths) + _IMAGE_TOKENS * np.array(self.has_image)

    def __len__(self) -> int:
        return len(self.dialogues)

    @functools.cached_property
    def num_tokens(self) -> np.ndarray:
        """Return tokens of each dialogue: prompts and replies, and those that stand for its image,
        which are as many for all images of a size.
        """
        of_image: dict[tuple[int, int], int] = {}
        counts = np.array([len(rendered.token_ids) for rendered in self.rendered])
        for index in np.flatnonzero(self.has_image).tolist():
            messages = self.dialogues[index]
            size = next(image_size(m.image) for m in messages if m.image is not None)
            if size not in of_image:
                of_image[size] = len(self.renderer.render(messages).token_ids) - counts[index]
            counts[index] += of_image[size]
        return counts

    def __getitem__(self, index: int) -> dict[str, Any]:
        rendered = self.rendered[index]
        if self.has_image[index]:
            rendered = self.renderer.render(self.dialogues[index])
        labels = [
            token if (rendered.trained[turn] if turn >= 0 else self.learns_prompts) else -100
            for token, turn in zip(rendered.token_ids, rendered.turn, strict=True)
        ]
        if rendered.image_at is not None and self.renderer.processor is not None:
            of_image = feature_token(self.renderer.processor)
            labels = [-100 if label == of_image else label for label in labels]
        return {"rendered": rendered, "labels": labels}


class TrainingOrder(torch.utils.data.Dataset):
    """Items in the order to train in, `num_batches` x `batch_size` of them: random, but so that
    dialogues of similar length share a batch.
    """

    def __init__(
        self,
        items: DialogueItems,
        batch_size: int,
        num_batches: int,
        seed: int,
        together: int = 1,
    ):
        self.items = items
        rng = np.random.default_rng([seed, _ORDER_STREAM])
        self.order = bucketed_order(items.lengths, batch_size, num_batches, rng, together)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.items[self.order[index]]


def bucketed_order(
    lengths: np.ndarray,
    batch_size: int,
    num_batches: int,
    rng: np.random.Generator,
    together: int = 1,
) -> np.ndarray:
    """Indices (num_batches * batch_size,) of items, each epoch a new permutation.

    Within a window of 16 batches, items are sorted by length and the batches then shuffled: what
    is trained on next does not depend on its length, unlike with Trainer's own grouping, which
    sorts a window from long to short and so feeds kinds of dialogues one after another. As
    many batches as are `together` stay neighbours, so that ranks that take batches in turn wait
    less for each other.
    """
    total = num_batches * batch_size
    epochs = -(-total // len(lengths))
    order = np.concatenate([rng.permutation(len(lengths)) for _ in range(epochs)])[:total]
    window = 16 * batch_size
    for start in range(0, total, window):
        part = order[start : start + window]
        size = batch_size * (together if len(part) % (batch_size * together) == 0 else 1)
        part = part[np.argsort(lengths[part], kind="stable")].reshape(-1, size)
        order[start : start + window] = rng.permutation(part).reshape(-1)
    return order


class PadRight:
    """Collates items into `input_ids` and `labels` (B, T), and `images` where there are some. Right
    padding under a causal model needs no attention mask: no real token sees a pad.

    With an `example`, batches without any image get a black one of its shape, which is not seen.
    """

    def __init__(self, pad_token_id: int, example: ProcessedImage | None = None):
        self.pad_token_id, self.example = pad_token_id, example

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        rendered: list[Rendered] = [item["rendered"] for item in items]
        width = max(len(r.token_ids) for r in rendered)
        rows = {
            "input_ids": ([r.token_ids for r in rendered], self.pad_token_id),
            "labels": ([item["labels"] for item in items], -100),
        }
        batch: dict[str, Any] = {
            name: torch.tensor([row + [pad] * (width - len(row)) for row in values])
            for name, (values, pad) in rows.items()
        }
        images = join_images(
            [r.processed_image for r in rendered], [r.image_at for r in rendered], "cpu"
        )
        if images is None and self.example is not None:
            images = blank(self.example, width)
        return batch if images is None else batch | {"images": dict(images)}
