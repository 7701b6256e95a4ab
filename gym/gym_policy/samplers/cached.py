"""Sampling with keys and values that outlive a call: those of a prompt that several requests share
are computed once, and those of a dialogue's earlier turns, or of whatever an episode's next prompt
begins with, are not computed again. Rows that have ended leave the batch.

Axes: R requests, U prompts that are computed, B rows still being sampled, L columns of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import Cache, PreTrainedModel

from gym_policy.completion import Completion, Decoding, Request
from gym_policy.logprobs import choose_tokens
from gym_policy.samplers.cache import GrowingLayer, make_cache
from gym_policy.vision import (
    Picture,
    attends_to_images,
    encode_pictures,
    generate_inputs,
    join_pictures,
)

_KEPT = "keys and values"
_WORTH = 0.25  # share of a prompt that has to be known for it to be taken up
_ENDED = 0.25  # share of ended rows from which on they are taken out of the batch
_SIMILAR = 1.5  # longest to shortest of the prompts that are computed together


@dataclass
class _Kept:
    """What is known of a prompt: the tokens that it began with (n,), and where their keys and
    values are: columns (n,) of one row of `layers`, each (rows, heads, L, head_dim).
    """

    token_ids: np.ndarray
    layers: list[tuple[torch.Tensor, torch.Tensor] | None]
    row: int
    columns: np.ndarray
    picture: Picture | None


@dataclass
class _Prompt:
    """A prompt to compute, and the requests that begin with it; the first `known` of its tokens
    are in `kept`.
    """

    request: Request
    numbers: list[int]
    token_ids: np.ndarray
    kept: _Kept | None = None
    known: int = 0

    @property
    def to_compute(self) -> int:
        return len(self.token_ids) - self.known


@dataclass
class _Filled:
    """A batch whose prompts have been computed: `valid` (rows, L), which columns of the cache count
    for a row; `logits` (rows, V) of what comes next; `sees` (rows, 1, 1, tiles) or None, the mask
    of images.
    """

    cache: Cache
    valid: torch.Tensor
    logits: torch.Tensor
    sees: torch.Tensor | None


class CachedSampler:
    """Samples from a transformers model in which every layer attends to all earlier tokens, or to
    an image (`takes`). With `keeps`, keys and values stay, on the model's device, until an episode
    ends: about twice the memory. An episode's weights have to stay the same, as in a rollout.
    """

    def __init__(self, model: PreTrainedModel, keeps: bool = True):
        self.model, self.keeps = model, keeps
        text = model.config.get_text_config()
        self.cross_layers = set(getattr(text, "cross_attention_layers", None) or ())

    @staticmethod
    def takes(model: PreTrainedModel) -> bool:
        """Whether this sampler can serve a model."""
        sees = hasattr(model.config, "vision_config")
        return make_cache(model.config) is not None and (attends_to_images(model) or not sees)

    def sample(self, requests: Sequence[Request], decoding: Decoding) -> list[Completion]:
        """One completion of each request, in order."""
        found: dict[int, Completion] = {}
        for has in (False, True):
            numbers = [i for i, r in enumerate(requests) if (r.picture is not None) is has]
            if numbers:
                part = self._sample([requests[i] for i in numbers], decoding)
                found |= zip(numbers, part, strict=True)
        return [found[number] for number in range(len(requests))]

    def _sample(self, requests: Sequence[Request], decoding: Decoding) -> list[Completion]:
        encode_pictures(self.model, [r.picture for r in requests if r.picture is not None])
        prompts = sorted(_prompts(requests), key=lambda prompt: prompt.to_compute)
        groups: list[list[_Prompt]] = []
        for prompt in prompts:
            if groups and prompt.to_compute <= _SIMILAR * groups[-1][0].to_compute + 8:
                groups[-1].append(prompt)
            else:
                groups.append([prompt])
        filled = [self._fill(group) for group in groups]
        for request in requests:
            request.shared.pop(_KEPT, None)  # taken up, or of no use
        order = [number for group in groups for prompt in group for number in prompt.numbers]
        repeats = [[len(prompt.numbers) for prompt in group] for group in groups]
        batch = _join(filled, repeats, self.cross_layers)
        ordered = [requests[number] for number in order]
        completions = self._decode(ordered, batch, decoding)
        return [completions[row] for row in np.argsort(order)]

    def _fill(self, prompts: Sequence[_Prompt]) -> _Filled:
        """Compute prompts together: each row of the cache is what is known of one, then the rest,
        both to the right of their padding.
        """
        device = self.model.device
        known, width = max(p.known for p in prompts), max(p.to_compute for p in prompts)
        input_ids = np.zeros((len(prompts), width), np.int64)
        positions, valid = np.zeros_like(input_ids), np.zeros((len(prompts), known + width), bool)
        starts: list[int | None] = []
        for row, prompt in enumerate(prompts):
            rest, count = prompt.token_ids[prompt.known :], prompt.to_compute
            input_ids[row, width - count :] = rest
            positions[row, width - count :] = np.arange(prompt.known, len(prompt.token_ids))
            valid[row, known - prompt.known : known] = True
            valid[row, known + width - count :] = True
            at = prompt.request.image_at
            starts.append(None if at is None else max(width - count + at - prompt.known, 0))
        input_ids = torch.from_numpy(input_ids).to(device)
        valid = torch.from_numpy(valid).to(device)
        cache = make_cache(self.model.config)
        if known:
            self._recall(cache, prompts, known)
        images = join_pictures([p.request.picture for p in prompts], starts, device)
        seen = generate_inputs(self.model, input_ids, images, cache)
        del images  # the cache holds what is needed of them
        output = self.model(
            input_ids=input_ids,
            attention_mask=valid.long(),
            position_ids=torch.from_numpy(positions).to(device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **seen,
        )
        sees = seen.get("cross_attention_mask")
        sees = None if sees is None else sees[:, -1:]
        return _Filled(cache, valid, output.logits[:, -1], sees)

    def _recall(self, cache: Cache, prompts: Sequence[_Prompt], known: int) -> None:
        """Put what is known of prompts into an empty cache, to the right of `known` columns."""
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
        """Sample every row to its end, one token of each at a time."""
        device = self.model.device
        tokens: list[list[int]] = [[] for _ in requests]
        logprobs: list[list[float]] = [[] for _ in requests]
        rows = np.arange(len(requests))  # which request is in which row of the batch
        start = batch.valid.shape[1]
        room = batch.valid.new_ones(len(requests), decoding.max_new_tokens)
        valid = torch.cat([batch.valid, room], dim=1).long()
        first = torch.tensor([len(r.token_ids) for r in requests], device=device)
        uniforms = None
        if not decoding.greedy:
            drawn = np.stack([r.uniforms for r in requests])
            uniforms = torch.from_numpy(drawn).to(device)
        cache, logits, sees = batch.cache, batch.logits, batch.sees
        is_live = np.ones(len(requests), bool)
        for step in range(decoding.max_new_tokens):
            draws = None if uniforms is None else uniforms[:, step]
            chosen, scores = choose_tokens(
                logits, decoding.temperature, decoding.forbidden, draws, decoding.top_p
            )
            said, scored = chosen.tolist(), scores.tolist()
            for row in np.flatnonzero(is_live):
                number = rows[row]
                tokens[number].append(said[row])
                logprobs[number].append(scored[row])
                is_live[row] = said[row] not in decoding.stop_ids
            if step == decoding.max_new_tokens - 1 or not is_live.any():
                break
            if np.mean(~is_live) >= _ENDED:
                ended = np.flatnonzero(~is_live)
                self._keep(requests, cache, ended, rows, batch.valid, start, tokens, True)
                left = torch.from_numpy(np.flatnonzero(is_live)).to(device)
                for layer in cache.layers:
                    if layer.is_initialized:
                        layer.keep_rows(left)
                rows, is_live = rows[is_live], is_live[is_live]
                chosen, first, valid = chosen[left], first[left], valid[left]
                uniforms = None if uniforms is None else uniforms[left]
                sees = None if sees is None else sees[left]
            logits = self.model(
                input_ids=chosen.unsqueeze(1),
                attention_mask=valid[:, : start + step + 1],
                position_ids=(first + step).unsqueeze(1),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                **({} if sees is None else {"cross_attention_mask": sees}),
            ).logits[:, -1]
        self._keep(requests, cache, np.arange(len(rows)), rows, batch.valid, start, tokens, False)
        return [Completion(*both) for both in zip(tokens, logprobs, strict=True)]

    def _keep(
        self,
        requests: Sequence[Request],
        cache: Cache,
        ended: np.ndarray,
        rows: np.ndarray,
        valid: torch.Tensor,
        start: int,
        tokens: Sequence[Sequence[int]],
        copies: bool,
    ) -> None:
        """Leave keys and values of rows that have `ended` for the episodes' next prompts; as a copy
        where the batch goes on without them. The last token of a reply has none yet.
        """
        if not self.keeps:
            return
        index = torch.from_numpy(ended).to(self.model.device)
        layers: list[tuple[torch.Tensor, torch.Tensor] | None] = []
        for number, layer in enumerate(cache.layers):
            if number in self.cross_layers:  # of an image: quickly made again, and large
                layers.append(None)
            elif copies:
                layers.append((layer.keys[index], layer.values[index]))
            else:
                layers.append((layer.keys, layer.values))
        columns = valid.cpu().numpy()
        for row, place in enumerate(ended):
            number = rows[place]
            request, reply = requests[number], tokens[number][:-1]
            request.shared[_KEPT] = _Kept(
                np.concatenate([request.token_ids, reply]).astype(np.int64),
                layers,
                row,
                np.concatenate([np.flatnonzero(columns[number]), start + np.arange(len(reply))]),
                request.picture,
            )


def _prompts(requests: Sequence[Request]) -> list[_Prompt]:
    """The prompts of requests, equal ones once, with what is known of each."""
    found: dict[tuple, _Prompt] = {}
    for number, request in enumerate(requests):
        prompt = _Prompt(request, [number], np.asarray(request.token_ids))
        kept: _Kept | None = request.shared.get(_KEPT)
        if kept is not None:
            prompt.kept, prompt.known = kept, _known(request, prompt.token_ids, kept)
        picture = None if request.picture is None else request.picture.digest
        key = (tuple(request.token_ids), picture)
        if prompt.known:
            key = (*key, number)
        if key in found:
            found[key].numbers.append(number)
        else:
            found[key] = prompt
    return list(found.values())


def _known(request: Request, token_ids: np.ndarray, kept: _Kept) -> int:
    """How many tokens a prompt begins with whose keys and values are kept; 0 where taking them up
    would not pay. The last token is computed in any case, for what comes next.
    """
    mine, its = (None if p is None else p.digest for p in (request.picture, kept.picture))
    if mine != its:  # Mllama lets even the tokens before an image see something of it: its mean
        return 0
    length = min(len(token_ids) - 1, len(kept.token_ids))
    differs = np.flatnonzero(token_ids[:length] != kept.token_ids[:length])
    known = int(differs[0]) if len(differs) else length
    return known if known >= _WORTH * len(token_ids) else 0


def _join(
    filled: Sequence[_Filled], repeats: Sequence[Sequence[int]], cross_layers: set[int]
) -> _Filled:
    """Several batches as one, every row as often as `repeats` says, aligned at the right."""
    if len(filled) == 1 and all(count == 1 for count in repeats[0]):
        return filled[0]
    device = filled[0].valid.device
    counts = [torch.tensor(counts, device=device) for counts in repeats]
    width = max(part.valid.shape[1] for part in filled)
    total = sum(map(sum, repeats))

    def repeated(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        pairs = zip(tensors, counts, strict=True)
        return torch.cat([tensor.repeat_interleave(count, dim=0) for tensor, count in pairs])

    def aligned(tensors: Sequence[torch.Tensor], axis: int, room: int) -> torch.Tensor:
        shape = [total, *tensors[0].shape[1:]]
        shape[axis] = width + room
        whole = tensors[0].new_zeros(shape)
        first = 0
        for tensor, count in zip(tensors, counts, strict=True):
            rows = slice(first, first + int(count.sum()))
            place = whole[rows].narrow(axis, width - tensor.shape[axis], tensor.shape[axis])
            place.copy_(tensor.repeat_interleave(count, dim=0))
            first = rows.stop
        return whole

    layers = []
    for number, parts in enumerate(zip(*(part.cache.layers for part in filled), strict=True)):
        both = [[part.keys for part in parts], [part.values for part in parts]]
        if not parts[0].is_initialized:  # of images, where there are none
            layers.append(GrowingLayer())
        elif number in cross_layers:  # as long in all
            layers.append(GrowingLayer.of(*map(repeated, both)))
        else:
            buffers = [aligned(tensors, 2, GrowingLayer.SPARE) for tensors in both]
            layers.append(GrowingLayer.of(*buffers, width))
        for part in parts:  # the memory of one layer after the other
            part.keys = part.values = part._buffers = None
        del both
    return _Filled(
        Cache(layers=layers),
        aligned([part.valid for part in filled], 1, 0),
        repeated([part.logits for part in filled]),
        None if filled[0].sees is None else repeated([part.sees for part in filled]),
    )
