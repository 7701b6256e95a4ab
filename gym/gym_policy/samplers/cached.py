"""Sampling with keys and values that outlive a call.

A prompt shared by several requests is computed once. Earlier turns of a dialogue, or whatever else
an episode's next prompt begins with, are not computed again. Finished rows leave the batch.

Axes: rows of a batch, L columns of the cache, V words in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import Cache, PreTrainedModel

from gym_policy.completion import Completion, Decoding, Request
from gym_policy.cross_attention import attends_to_images
from gym_policy.logprobs import choose_tokens
from gym_policy.samplers.cache import GrowingLayer, make_cache
from gym_policy.sequence_images import positions, takes_features
from gym_policy.vision import ProcessedImage, encode_images, generate_inputs, join_images

_KEPT = "keys and values"
_SEES = "cross_attention_mask"
_WORTH = 0.25  # share of a prompt that must be cached for the cache to be used
_ENDED = 0.25  # share of finished rows at which they leave the batch
_SIMILAR = 1.5  # ratio of the longest to the shortest prompt computed together


@dataclass
class _Kept:
    """Keys and values of a prompt's first tokens (n,): in columns (n,) of one row of `layers`, each
    (rows, heads, L, head_dim).
    """

    token_ids: np.ndarray
    layers: list[tuple[torch.Tensor, torch.Tensor] | None]
    row: int
    columns: np.ndarray
    processed_image: ProcessedImage | None


@dataclass
class _Prompt:
    """A prompt to compute, and the numbers of the requests that have it; `kept` holds the first
    `known` of its tokens. `positions` (axes, tokens) are theirs, and `following` is the next one.
    """

    request: Request
    numbers: list[int]
    token_ids: np.ndarray
    positions: np.ndarray
    following: int
    kept: _Kept | None = None
    known: int = 0

    @property
    def to_compute(self) -> int:
        return len(self.token_ids) - self.known


@dataclass
class _Filled:
    """A batch of computed prompts: `valid` (rows, L) masks the columns of the cache that belong to
    a row, `logits` (rows, V) are those of the next token and `following` (rows,) is its position,
    `sees` (rows, 1, 1, tiles) is the mask of images or None.
    """

    cache: Cache
    valid: torch.Tensor
    logits: torch.Tensor
    following: torch.Tensor
    sees: torch.Tensor | None


class CachedSampler:
    """Samples from models whose layers attend to all earlier tokens or to an image (see `takes`).

    With `keeps`, keys and values stay on the device until an episode ends, which about doubles
    their memory. The weights must not change during an episode.
    """

    def __init__(self, model: PreTrainedModel, keeps: bool = True):
        self.model, self.keeps = model, keeps
        text = model.config.get_text_config()
        self.cross_layers = set(getattr(text, "cross_attention_layers", None) or ())

    @staticmethod
    def takes(model: PreTrainedModel) -> bool:
        """Return whether this sampler can serve a model."""
        sees = hasattr(model.config, "vision_config")
        serves = not sees or attends_to_images(model) or takes_features(model)
        return make_cache(model.config) is not None and serves

    def sample(self, requests: Sequence[Request], decoding: Decoding) -> list[Completion]:
        """Return one completion per request, in order."""
        completions: dict[int, Completion] = {}
        for has in (False, True):  # requests with an image and those without do not mix
            numbers = [i for i, r in enumerate(requests) if (r.processed_image is not None) is has]
            if numbers:
                part = self._sample([requests[i] for i in numbers], decoding)
                completions |= zip(numbers, part, strict=True)
        return [completions[number] for number in range(len(requests))]

    def _sample(self, requests: Sequence[Request], decoding: Decoding) -> list[Completion]:
        encode_images(
            self.model, [r.processed_image for r in requests if r.processed_image is not None]
        )
        prompts = sorted(_prompts(self.model, requests), key=lambda prompt: prompt.to_compute)
        groups: list[list[_Prompt]] = []
        for prompt in prompts:
            if groups and prompt.to_compute <= _SIMILAR * groups[-1][0].to_compute + 8:
                groups[-1].append(prompt)
            else:
                groups.append([prompt])
        filled = [self._fill(group) for group in groups]
        for request in requests:
            request.shared.pop(_KEPT, None)  # used by now, or of no use
        order = [number for group in groups for prompt in group for number in prompt.numbers]
        repeats = [[len(prompt.numbers) for prompt in group] for group in groups]
        batch = _join(filled, repeats, self.cross_layers)
        ordered = [requests[number] for number in order]
        completions = self._decode(ordered, batch, decoding)
        return [completions[row] for row in np.argsort(order)]

    def _fill(self, prompts: Sequence[_Prompt]) -> _Filled:
        """Compute prompts together. A row of the cache holds a prompt's known tokens and then the
        rest, each padded on the left.
        """
        device = self.model.device
        known, width = max(p.known for p in prompts), max(p.to_compute for p in prompts)
        input_ids = np.zeros((len(prompts), width), np.int64)
        places = np.zeros((len(prompts[0].positions), *input_ids.shape), np.int64)
        valid = np.zeros((len(prompts), known + width), bool)
        starts: list[int | None] = []
        seen: list[ProcessedImage | None] = []
        for row, prompt in enumerate(prompts):
            rest, count = prompt.token_ids[prompt.known :], prompt.to_compute
            input_ids[row, width - count :] = rest
            places[:, row, width - count :] = prompt.positions[:, prompt.known :]
            valid[row, known - prompt.known : known] = True
            valid[row, known + width - count :] = True
            at = prompt.request.image_at
            starts.append(None if at is None else max(width - count + at - prompt.known, 0))
            is_known = at is not None and at < prompt.known and not self.cross_layers
            seen.append(None if is_known else prompt.request.processed_image)
        input_ids = torch.from_numpy(input_ids).to(device)
        valid = torch.from_numpy(valid).to(device)
        cache = make_cache(self.model.config)
        if known:
            self._recall(cache, prompts, known)
        images = join_images(seen, starts, device)
        image_arguments = generate_inputs(self.model, input_ids, images, cache)
        del images  # the cache holds their keys and values
        if known and _SEES in image_arguments:
            mask = image_arguments[_SEES]
            before = mask.new_zeros(len(mask), known, *mask.shape[2:])  # of no use to the rest
            image_arguments[_SEES] = torch.cat([before, mask], dim=1)
        output = self.model(
            input_ids=input_ids,
            attention_mask=valid.long(),
            position_ids=torch.from_numpy(places if len(places) > 1 else places[0]).to(device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **image_arguments,
        )
        sees = image_arguments.get(_SEES)
        sees = None if sees is None else sees[:, -1:]
        following = torch.tensor([prompt.following for prompt in prompts], device=device)
        return _Filled(cache, valid, output.logits[:, -1], following, sees)

    def _recall(self, cache: Cache, prompts: Sequence[_Prompt], known: int) -> None:
        """Fill an empty cache with the known tokens of prompts, aligned at the right of `known`
        columns.
        """
        device = self.model.device
        sources: dict[int, list[int]] = {}
        for number, prompt in enumerate(prompts):
            if prompt.known:
                sources.setdefault(id(prompt.kept.layers), []).append(number)
        parts = []
        for numbers in sources.values():
            columns = np.zeros((len(numbers), known), np.int64)
            for row, number in enumerate(numbers):
                prompt = prompts[number]
                columns[row, known - prompt.known :] = prompt.kept.columns[: prompt.known]
            rows = torch.tensor([[prompts[number].kept.row] for number in numbers], device=device)
            where = torch.tensor(numbers, device=device)
            layers = prompts[numbers[0]].kept.layers
            parts.append((where, rows, torch.from_numpy(columns).to(device), layers))
        for index, example in enumerate(parts[0][3]):
            if example is None:
                continue
            both = []
            for which, like in enumerate(example):
                whole = like.new_zeros(len(prompts), known, like.shape[1], like.shape[3])
                for where, rows, columns, layers in parts:
                    whole[where] = layers[index][which][rows, :, columns]
                both.append(whole.transpose(1, 2))
            cache.update(*both, index)

    def _decode(
        self, requests: Sequence[Request], batch: _Filled, decoding: Decoding
    ) -> list[Completion]:
        """Sample all rows to their ends, one token of each at a time."""
        rows = _Rows(requests, batch, decoding)
        logits = batch.logits
        for step in range(decoding.max_new_tokens):
            chosen = rows.choose(logits, step, decoding)
            if step == decoding.max_new_tokens - 1 or not rows.is_live.any():
                break
            if np.mean(~rows.is_live) >= _ENDED:
                self._keep(rows, np.flatnonzero(~rows.is_live), copies=True)
                chosen = chosen[rows.drop_ended()]
            logits = self.model(
                input_ids=chosen.unsqueeze(1),
                **rows.arguments(step),
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        self._keep(rows, np.arange(len(rows.numbers)), copies=False)
        return [Completion(*both) for both in zip(rows.tokens, rows.logprobs, strict=True)]

    def _keep(self, rows: _Rows, ended: np.ndarray, copies: bool) -> None:
        """Store the keys and values of `ended` rows (n,) for the next prompts of their episodes; as
        copies if the batch continues without them. The last token of a reply has none yet.
        """
        if not self.keeps:
            return
        index = torch.from_numpy(ended).to(self.model.device)
        layers: list[tuple[torch.Tensor, torch.Tensor] | None] = []
        for number, layer in enumerate(rows.cache.layers):
            if number in self.cross_layers:  # those of images are large and quickly recomputed
                layers.append(None)
            elif copies:
                layers.append((layer.keys[index], layer.values[index]))
            else:
                layers.append((layer.keys, layer.values))
        columns = rows.prompt_columns.cpu().numpy()
        for row, place in enumerate(ended):
            number = rows.numbers[place]
            request, reply = rows.requests[number], rows.tokens[number][:-1]
            reply_columns = rows.start + np.arange(len(reply))
            request.shared[_KEPT] = _Kept(
                np.concatenate([request.token_ids, reply]).astype(np.int64),
                layers,
                row,
                np.concatenate([np.flatnonzero(columns[number]), reply_columns]),
                request.processed_image,
            )


class _Rows:
    """The rows of a batch while replies are sampled, with the tokens and log-probabilities of each
    request so far.
    """

    def __init__(self, requests: Sequence[Request], batch: _Filled, decoding: Decoding):
        device, count = batch.valid.device, len(requests)
        self.requests = requests
        self.tokens: list[list[int]] = [[] for _ in requests]
        self.logprobs: list[list[float]] = [[] for _ in requests]
        self.numbers = np.arange(count)  # the request of each row
        self.is_live = np.ones(count, bool)
        self.cache, self.sees = batch.cache, batch.sees
        self.prompt_columns, self.start = batch.valid, batch.valid.shape[1]
        room = batch.valid.new_ones(count, decoding.max_new_tokens)
        self._valid = torch.cat([batch.valid, room], dim=1).long()
        self._first = batch.following
        self._uniforms = None
        if not decoding.greedy:
            uniforms = np.stack([r.uniforms for r in requests])
            self._uniforms = torch.from_numpy(uniforms).to(device)

    def choose(self, logits: torch.Tensor, step: int, decoding: Decoding) -> torch.Tensor:
        """Choose the next token of each row, (rows,), and record it for live rows."""
        uniforms = None if self._uniforms is None else self._uniforms[:, step]
        chosen, scores = choose_tokens(
            logits, decoding.temperature, decoding.suppressed, uniforms, decoding.top_p
        )
        tokens, logprobs = chosen.tolist(), scores.tolist()
        for row in np.flatnonzero(self.is_live):
            number = self.numbers[row]
            self.tokens[number].append(tokens[row])
            self.logprobs[number].append(logprobs[row])
            self.is_live[row] = tokens[row] not in decoding.stop_ids
        return chosen

    def drop_ended(self) -> torch.Tensor:
        """Drop finished rows; return the indices (n,) of those that are left."""
        left = torch.from_numpy(np.flatnonzero(self.is_live)).to(self._valid.device)
        for layer in self.cache.layers:
            if layer.is_initialized:
                layer.keep_rows(left)
        self.numbers, self.is_live = self.numbers[self.is_live], self.is_live[self.is_live]
        self._first, self._valid = self._first[left], self._valid[left]
        self._uniforms = None if self._uniforms is None else self._uniforms[left]
        self.sees = None if self.sees is None else self.sees[left]
        return left

    def arguments(self, step: int) -> dict[str, Any]:
        """Return the forward arguments, beside its ids, for the token chosen at a step."""
        arguments = {
            "attention_mask": self._valid[:, : self.start + step + 1],
            "position_ids": (self._first + step).unsqueeze(1),
            "past_key_values": self.cache,
        }
        if self.sees is not None:
            # As wide as the cache, since earlier releases of transformers 5 take no other.
            arguments[_SEES] = self.sees.expand(-1, self.start + step + 1, -1, -1)
        return arguments


def _prompts(model: PreTrainedModel, requests: Sequence[Request]) -> list[_Prompt]:
    """Return the prompts of requests, equal ones once, with what is known of each."""
    prompts: dict[tuple, _Prompt] = {}
    for number, request in enumerate(requests):
        token_ids, image = np.asarray(request.token_ids), request.processed_image
        kept: _Kept | None = request.shared.get(_KEPT)
        known = 0 if kept is None else _known(request, token_ids, kept)
        key: tuple = (tuple(request.token_ids), _digest(image), number if known else None)
        if key in prompts:
            prompts[key].numbers.append(number)
            continue
        places = positions(model, token_ids, None if image is None else image.tensors)
        prompts[key] = _Prompt(request, [number], token_ids, *places, kept, known)
    return list(prompts.values())


def _digest(image: ProcessedImage | None) -> bytes | None:
    return None if image is None else image.digest


def _known(request: Request, token_ids: np.ndarray, kept: _Kept) -> int:
    """Return how many tokens at the start of a prompt have kept keys and values, or 0 if using them
    would not pay. The last token is always computed, for the logits of the next one.
    """
    # In Mllama even tokens before an image are affected by it, through its mean.
    if _digest(request.processed_image) != _digest(kept.processed_image):
        return 0
    length = min(len(token_ids) - 1, len(kept.token_ids))
    differs = np.flatnonzero(token_ids[:length] != kept.token_ids[:length])
    known = int(differs[0]) if len(differs) else length
    return known if known >= _WORTH * len(token_ids) else 0


def _join(
    filled: Sequence[_Filled], repeats: Sequence[Sequence[int]], cross_layers: set[int]
) -> _Filled:
    """Join batches into one, with each row repeated as `repeats` says, aligned at the right."""
    if len(filled) == 1 and all(count == 1 for count in repeats[0]):
        return filled[0]
    layout = _Layout(filled, repeats)
    layers = []
    for number, parts in enumerate(zip(*(part.cache.layers for part in filled), strict=True)):
        layers.append(layout.layer(parts, is_cross=number in cross_layers))
        for part in parts:  # free the memory of one layer before the next is joined
            part.keys = part.values = part._buffers = None
    return _Filled(
        Cache(layers=layers),
        layout.aligned([part.valid for part in filled], axis=1),
        layout.repeated([part.logits for part in filled]),
        layout.repeated([part.following for part in filled]),
        None if filled[0].sees is None else layout.repeated([part.sees for part in filled]),
    )


class _Layout:
    """How the rows of several batches lie in the one that joins them."""

    def __init__(self, filled: Sequence[_Filled], repeats: Sequence[Sequence[int]]):
        device = filled[0].valid.device
        self.counts = [torch.tensor(counts, device=device) for counts in repeats]
        self.width = max(part.valid.shape[1] for part in filled)
        self.sizes = [sum(counts) for counts in repeats]

    def repeated(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Repeat the rows of each batch's tensor and concatenate them."""
        pairs = zip(tensors, self.counts, strict=True)
        return torch.cat([tensor.repeat_interleave(count, dim=0) for tensor, count in pairs])

    def aligned(self, tensors: Sequence[torch.Tensor], axis: int, room: int = 0) -> torch.Tensor:
        """Do the same with tensors of different lengths along `axis`: aligned at the right, before
        `room` free columns.
        """
        shape = [sum(self.sizes), *tensors[0].shape[1:]]
        shape[axis] = self.width + room
        whole = tensors[0].new_zeros(shape)
        first = 0
        for tensor, count, size in zip(tensors, self.counts, self.sizes, strict=True):
            rows, length = whole[first : first + size], tensor.shape[axis]
            place = rows.narrow(axis, self.width - length, length)
            place.copy_(tensor.repeat_interleave(count, dim=0))
            first += size
        return whole

    def layer(self, parts: Sequence[GrowingLayer], is_cross: bool) -> GrowingLayer:
        """Join one layer of each batch's cache."""
        both = [part.keys for part in parts], [part.values for part in parts]
        if not parts[0].is_initialized:  # a cross-attention layer without images
            return GrowingLayer()
        if is_cross:  # equally long in all batches
            return GrowingLayer.of(*map(self.repeated, both))
        buffers = [self.aligned(tensors, 2, GrowingLayer.SPARE) for tensors in both]
        return GrowingLayer.of(*buffers, self.width)
