"""Oracle dialogues -> JSONL -> token sequences on which only the trained replies are learned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from gym_dialogue import InputError, Message, NoisyOraclePolicy, Task, rollout
from gym_dialogue.command import EnvConfig, make_envs
from gym_dialogue.messages import messages_to_json
from gym_policy.renderer import Renderer

_NUM_ENVS = 64
_SHUFFLE_STREAM = 1
_ORDER_STREAM = 2
_VALIDATION_STREAM = 3


@dataclass
class SourceConfig:
    """One part of a mix of oracle dialogues."""

    env: EnvConfig = field(default_factory=EnvConfig)
    """Where the dialogues come from."""
    share: float = 1.0
    """Its share of the dialogues, relative to the other sources'."""
    error_rate: float = 0.0
    """Probability of a mistake in each reply. Mistakes are context; the corrections are learned.
    With 0 every dialogue is a single-turn answer."""


def make_dialogues(
    sources: Sequence[SourceConfig], count: int, seed: int, show_progress: bool = True
) -> list[dict[str, list[dict]]]:
    """`count` successful oracle dialogues over all sources, shuffled, as `{"messages": [...]}`."""
    total = sum(source.share for source in sources)
    if not sources or total <= 0:
        raise InputError("sources: need at least one, with a share above 0")
    dialogues = []
    progress = tqdm(
        total=count,
        desc="oracle dialogues",
        unit="dialogue",
        mininterval=1,
        disable=not show_progress,
    )
    with progress:
        for number, source in enumerate(sources):
            size = round(count * source.share / total)
            envs = make_envs(source.env, _NUM_ENVS)
            seeds = np.random.SeedSequence([seed, number]).generate_state(size)
            tasks = [Task(int(s), (seed, number, i)) for i, s in enumerate(seeds)]
            policy = NoisyOraclePolicy(source.error_rate)
            for episode in rollout(envs, policy, tasks, lambda _: progress.update()):
                right = {turn.dialogue for turn in episode.turns if turn.is_right}
                for index in sorted(right):
                    turns = iter(episode.turns_of(index))
                    messages = [
                        m
                        if m.role != "assistant"
                        else Message(m.role, m.text, trained=episode.turns[next(turns)].is_right)
                        for m in episode.dialogues[index].messages
                    ]
                    dialogues.append({"messages": messages_to_json(messages)})
    order = np.random.default_rng([seed, _SHUFFLE_STREAM]).permutation(len(dialogues))
    return [dialogues[i] for i in order]


def write_jsonl(path: str | Path, records: Sequence[dict]) -> None:
    """One JSON record a line."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def hold_back(
    dialogues: Sequence[Sequence[Message]], share: float, seed: int
) -> tuple[list[Sequence[Message]], list[Sequence[Message]]]:
    """(dialogues to learn from, a random share, of at least one, that is kept back to evaluate on).

    Raises InputError for a share that leaves none to learn from.
    """
    count = max(1, round(share * len(dialogues))) if share else 0
    if count >= len(dialogues):
        raise InputError(f"validation={share}: leaves none of {len(dialogues)} to learn from")
    order = np.random.default_rng([seed, _VALIDATION_STREAM]).permutation(len(dialogues))
    kept = set(order[:count].tolist())
    return (
        [d for i, d in enumerate(dialogues) if i not in kept],
        [d for i, d in enumerate(dialogues) if i in kept],
    )


def to_items(
    dialogues: Sequence[Sequence[Message]], renderer: Renderer
) -> list[dict[str, list[int]]]:
    """Dialogues as `input_ids` and `labels`: -100 everywhere but on tokens of trained replies."""
    items = []
    for messages in dialogues:
        rendered = renderer.render(messages)
        labels = [
            token if turn >= 0 and rendered.trained[turn] else -100
            for token, turn in zip(rendered.token_ids, rendered.turn, strict=True)
        ]
        items.append({"input_ids": rendered.token_ids, "labels": labels})
    return items


class DialogueDataset(torch.utils.data.Dataset):
    """Dialogues as items (`to_items`) in the order to train in, `num_batches` x `batch_size` of
    them: random, but so that dialogues of similar length share a batch.
    """

    def __init__(
        self,
        dialogues: Sequence[Sequence[Message]],
        renderer: Renderer,
        batch_size: int,
        num_batches: int,
        seed: int,
    ):
        self.items = to_items(dialogues, renderer)
        lengths = np.array([len(item["input_ids"]) for item in self.items])
        rng = np.random.default_rng([seed, _ORDER_STREAM])
        self.order = bucketed_order(lengths, batch_size, num_batches, rng)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self.items[self.order[index]]


def bucketed_order(
    lengths: np.ndarray, batch_size: int, num_batches: int, rng: np.random.Generator
) -> np.ndarray:
    """Indices (num_batches * batch_size,) of items, each epoch a new permutation.

    Within a window of 16 batches, items are sorted by length and the batches then shuffled: what
    is trained on next does not depend on its length, unlike with Trainer's own grouping, which
    sorts a window from long to short and so feeds kinds of dialogues one after another.
    """
    total = num_batches * batch_size
    epochs = -(-total // len(lengths))
    order = np.concatenate([rng.permutation(len(lengths)) for _ in range(epochs)])[:total]
    window = 16 * batch_size
    for start in range(0, total, window):
        part = order[start : start + window]
        part = part[np.argsort(lengths[part], kind="stable")].reshape(-1, batch_size)
        order[start : start + window] = rng.permutation(part).reshape(-1)
    return order


class PadRight:
    """Collates items into `input_ids` and `labels` (B, T). Right padding under a causal model
    needs no attention mask: no real token sees a pad.
    """

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, items: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        width = max(len(item["input_ids"]) for item in items)
        fill = {"input_ids": self.pad_token_id, "labels": -100}
        return {
            name: torch.tensor([item[name] + [pad] * (width - len(item[name])) for item in items])
            for name, pad in fill.items()
        }
