"""Sampling with transformers' `generate`: the simple way, for any model that it supports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from transformers import Cache, GenerationConfig, LogitsProcessor, PreTrainedModel

from gym_dialogue.errors import InputError
from gym_policy.completion import Completion, Decoding, Request
from gym_policy.logprobs import choose_tokens
from gym_policy.samplers.cache import make_cache
from gym_policy.vision import encode_images, generate_inputs, join_images

_STATIC_STEP = 64  # with a static cache, prompts are padded to multiples of this many tokens


class _Draw(LogitsProcessor):
    """Chooses the next token, keeps its log-probability, and leaves `generate` no other choice."""

    def __init__(self, decoding: Decoding, uniforms: torch.Tensor | None):
        self.decoding, self.uniforms = decoding, uniforms
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        draws = None if self.uniforms is None else self.uniforms[:, len(self.logprobs)]
        decoding = self.decoding
        chosen, logprobs = choose_tokens(
            scores, decoding.temperature, decoding.suppressed, draws, decoding.top_p
        )
        self.logprobs.append(logprobs)
        return torch.full_like(scores, -torch.inf).scatter_(-1, chosen.unsqueeze(-1), 0.0)


@contextmanager
def without_defaults(model: PreTrainedModel) -> Iterator[None]:
    """Set a checkpoint's generation_config aside. From it `generate` fills in what a call does not
    set, such as penalties, and would then sample from another distribution than is learned.
    """
    of_checkpoint = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = of_checkpoint


class GenerateSampler:
    """Samples with `generate`. With `static`, for text-only models, the cache has a fixed size, and
    on a GPU transformers compiles the decoding step and captures it as a CUDA graph.
    """

    def __init__(self, model: PreTrainedModel, static: bool = False):
        if static and hasattr(model.config, "vision_config"):
            raise InputError("sampler=static: serves text-only models; use cached")
        self.model, self.static = model, static

    def sample(self, requests: Sequence[Request], decoding: Decoding) -> list[Completion]:
        """Return one completion per request, in order."""
        count, width = len(requests), max(len(request.token_ids) for request in requests)
        if self.static:  # a new shape needs a new graph, so shapes are rounded up
            width = -(-width // _STATIC_STEP) * _STATIC_STEP
            missing = (1 << (count - 1).bit_length()) - count
            requests = [*requests, *[requests[0]] * missing]
        ids, mask = self._padded(requests, width, decoding.pad_token_id)
        draw = _Draw(decoding, self._uniforms(requests, decoding))
        cache = None if self.static else make_cache(self.model.config)
        generation = GenerationConfig(
            max_new_tokens=decoding.max_new_tokens,
            do_sample=False,
            eos_token_id=list(decoding.stop_ids),
            pad_token_id=decoding.pad_token_id,
            cache_implementation="static" if self.static else None,
        )
        with without_defaults(self.model):
            sequences = self.model.generate(
                inputs=ids,
                attention_mask=mask,
                logits_processor=[draw],
                past_key_values=cache,
                **self._images(requests, ids, cache),
                synced_gpus=False,  # ranks sample alone: under ZeRO-3, whole_weights has gathered
                generation_config=generation,
            )
        sampled = sequences[:count, width:].tolist()
        logprobs = torch.stack(draw.logprobs, dim=1)[:count].tolist()
        return [_cut(*row, decoding.stop_ids) for row in zip(sampled, logprobs, strict=True)]

    def _padded(
        self, requests: Sequence[Request], width: int, pad_token_id: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return prompts padded on the left, and the attention mask, both (B, width)."""
        ids = torch.full((len(requests), width), pad_token_id)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(requests):
            ids[row, width - len(request.token_ids) :] = torch.tensor(request.token_ids)
            mask[row, width - len(request.token_ids) :] = 1
        return ids.to(self.model.device), mask.to(self.model.device)

    def _images(
        self, requests: Sequence[Request], ids: torch.Tensor, cache: Cache | None
    ) -> dict[str, torch.Tensor]:
        processed = [request.processed_image for request in requests]
        encode_images(self.model, [image for image in processed if image is not None])
        width = ids.shape[1]
        starts = [
            None if r.image_at is None else width - len(r.token_ids) + r.image_at for r in requests
        ]
        images = join_images(processed, starts, self.model.device)
        return generate_inputs(self.model, ids, images, cache)

    def _uniforms(self, requests: Sequence[Request], decoding: Decoding) -> torch.Tensor | None:
        if decoding.greedy:
            return None
        return torch.from_numpy(np.stack([r.uniforms for r in requests])).to(self.model.device)


def _cut(token_ids: list[int], logprobs: list[float], stop_ids: Sequence[int]) -> Completion:
    """Return a row as a completion, up to its stop token."""
    ends = (i + 1 for i, token in enumerate(token_ids) if token in stop_ids)
    length = next(ends, len(token_ids))
    return Completion(token_ids[:length], logprobs[:length])
