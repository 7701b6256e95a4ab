"""Collected episodes as training sequences: one per dialogue, with its turns and their tokens.

Axes: B sequences, T positions, N reply tokens of all sequences, M turns of all sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device

from gym_dialogue import Episode, Reply
from gym_dialogue.parse import field_start
from gym_policy import Renderer
from gym_policy.vision import Images, ProcessedImage, join_images


@dataclass
class Experience:
    """One dialogue. Per-token arrays cover its reply tokens (n), per-turn arrays its turns (m)."""

    episode: int
    turns: list[int]  # indices into the episode's turns
    token_ids: list[int]
    reply_at: np.ndarray  # (n,) positions of the reply tokens
    token_turn: np.ndarray  # (n,) which of the m turns each belongs to
    token_weight: np.ndarray  # (n,) what each counts for in its reply's log-probability
    prompt_ends: np.ndarray  # (m,)
    sampled_logprobs: np.ndarray  # (n,) as recorded while sampling
    old_logprobs: np.ndarray  # (n,) the same, or as the learner computes them
    ref_logprobs: np.ndarray  # (n,) under the reference
    old_values: np.ndarray  # (m,)
    advantages: np.ndarray  # (m,)
    returns: np.ndarray  # (m,)
    processed_image: ProcessedImage | None = None
    image_at: int | None = None


def to_experience(
    episodes: Sequence[Episode],
    renderer: Renderer,
    prefix_weight: float = 1.0,
    keep_features: bool = False,
) -> list[Experience]:
    """Return the dialogues of all episodes, in order. Advantages, returns, values and the
    reference's log-probabilities are zero at first. `prefix_weight` is that of a reply's tokens
    before its answer field. `keep_features` keeps what the vision tower has made of the images in
    sampling, which is right for as long as the tower is not trained.
    """
    experiences = []
    for number, episode in enumerate(episodes):
        for index, dialogue in enumerate(episode.dialogues):
            turns = episode.turns_of(index)
            if not turns:
                continue
            rendered = renderer.render(dialogue)
            turn_of = np.asarray(rendered.turn)
            reply_at = np.flatnonzero(turn_of >= 0)
            replies = [episode.turns[turn].reply for turn in turns]
            field = episode.info["answer_field"]
            processed_image = rendered.processed_image
            if processed_image is not None and not keep_features:
                processed_image.features = None  # the dialogue's own, too: they are large
            zeros = np.zeros(len(turns))
            recorded = np.concatenate([reply.logprobs for reply in replies])
            experiences.append(
                Experience(
                    episode=number,
                    turns=turns,
                    token_ids=rendered.token_ids,
                    reply_at=reply_at,
                    token_turn=turn_of[reply_at],
                    token_weight=np.concatenate(
                        [token_weights(reply, field, renderer, prefix_weight) for reply in replies]
                    ),
                    prompt_ends=np.asarray(rendered.prompt_ends),
                    sampled_logprobs=recorded,
                    old_logprobs=recorded,
                    ref_logprobs=np.zeros(len(reply_at)),
                    old_values=zeros.copy(),
                    advantages=zeros.copy(),
                    returns=zeros.copy(),
                    processed_image=processed_image,
                    image_at=rendered.image_at,
                )
            )
    return experiences


def token_weights(
    reply: Reply, answer_field: str | None, renderer: Renderer, prefix_weight: float
) -> np.ndarray:
    """Return (n,) `prefix_weight` for a reply's tokens before its answer field, 1 from there on. In
    a reply without that field every token stands before it; where an environment names no field,
    none does.
    """
    weights = np.ones(len(reply.token_ids))
    if prefix_weight == 1 or answer_field is None:
        return weights
    start = field_start(reply.text, answer_field)
    before = None if start is None else renderer.tokens_before(reply.token_ids, start)
    weights[:before] = prefix_weight
    return weights


@dataclass
class Batch:
    """Sequences side by side, right-padded, with flat positions as ActorCritic.forward takes
    them. `weight` is 0 for a batch that only keeps a rank in step with the others.
    """

    input_ids: torch.Tensor  # (B, T)
    predict_at: torch.Tensor  # (N,)
    targets: torch.Tensor  # (N,)
    value_at: torch.Tensor  # (M,)
    token_turn: torch.Tensor  # (N,) index into the M turns
    token_weight: torch.Tensor  # (N,)
    sampled_logprobs: torch.Tensor  # (N,)
    old_logprobs: torch.Tensor  # (N,)
    ref_logprobs: torch.Tensor  # (N,)
    old_values: torch.Tensor  # (M,)
    advantages: torch.Tensor  # (M,)
    returns: torch.Tensor  # (M,)
    images: Images | None = None
    weight: float = 1.0

    def to(self, device: torch.device | str) -> Batch:
        """Return the same on a device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device)
            for name, value in values.items()
            if isinstance(value, torch.Tensor)
        }
        if self.images is not None:
            moved["images"] = send_to_device(dict(self.images), device)
        return replace(self, **moved)

    @property
    def model_inputs(self) -> dict[str, Any]:
        """Return the arguments of ActorCritic.forward."""
        names = ("input_ids", "predict_at", "targets", "value_at", "images")
        return {name: getattr(self, name) for name in names}

    @property
    def value_inputs(self) -> dict[str, Any]:
        """Return the same for values alone: no reply token, so that no logits are computed."""
        none = {name: getattr(self, name)[:0] for name in ("predict_at", "targets")}
        return self.model_inputs | none


def collate(
    experiences: Sequence[Experience],
    pad_token_id: int,
    device: torch.device | str,
    weight: float = 1.0,
) -> Batch:
    """Join sequences into one batch on a device."""
    width = max(len(e.token_ids) for e in experiences)
    input_ids = np.full((len(experiences), width), pad_token_id)
    predict_at, targets, value_at, token_turn = [], [], [], []
    first_turn = 0
    for row, e in enumerate(experiences):
        ids = np.asarray(e.token_ids)
        input_ids[row, : len(ids)] = ids
        predict_at.append(row * width + e.reply_at - 1)
        targets.append(ids[e.reply_at])
        value_at.append(row * width + e.prompt_ends)
        token_turn.append(first_turn + e.token_turn)
        first_turn += len(e.turns)

    def whole(parts: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(parts)).to(device)

    per_token = ("token_weight", "sampled_logprobs", "old_logprobs", "ref_logprobs")
    per_turn = ("old_values", "advantages", "returns")
    real = {
        name: whole([getattr(e, name) for e in experiences]).float()
        for name in (*per_token, *per_turn)
    }
    return Batch(
        input_ids=torch.from_numpy(input_ids).to(device),
        predict_at=whole(predict_at),
        targets=whole(targets),
        value_at=whole(value_at),
        token_turn=whole(token_turn),
        images=join_images(
            [e.processed_image for e in experiences], [e.image_at for e in experiences], device
        ),
        weight=weight,
        **real,
    )
