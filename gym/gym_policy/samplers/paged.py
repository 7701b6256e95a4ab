"""Sampling with transformers' continuous batching: a scheduler over a paged cache that replaces a
finished reply by the next prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel

from gym_dialogue.errors import InputError
from gym_policy.completion import Completion, Decoding, Request
from gym_policy.out_of_memory import is_out_of_memory

_PAGE = 32  # tokens per page of the cache on a CPU
_PAGE_KEY = "page_size" if hasattr(ContinuousBatchingConfig, "page_size") else "block_size"
_TOGETHER = 2048  # tokens per forward pass there; its mask is as wide as the whole cache


class PagedSampler:
    """Samples from text-only models with `generate_batch`. Draws depend on all requests of a call,
    and its kernels differ from those that learning uses.

    The paged cache lives for one call, so nothing in it outlasts a change of the weights. Greedy
    replies have the log-probabilities of temperature 1.
    """

    def __init__(self, model: PreTrainedModel):
        if hasattr(model.config, "vision_config"):
            raise InputError("sampler=paged: serves text-only models; use cached")
        self.model = model

    def sample(self, requests: Sequence[Request], decoding: Decoding) -> list[Completion]:
        """Return one completion per request, in order. Raises InputError if transformers stops
        early, and OutOfMemoryError if memory has run out.
        """
        seed = None
        if not decoding.greedy:
            seed = int(requests[0].uniforms[0] * 2**31)
        generation = GenerationConfig(
            max_new_tokens=decoding.max_new_tokens,
            do_sample=not decoding.greedy,
            temperature=1.0 if decoding.greedy else decoding.temperature,
            top_k=0,
            top_p=1.0 if decoding.greedy else decoding.top_p,
            eos_token_id=list(decoding.stop_ids),
            pad_token_id=decoding.pad_token_id,
        )
        batching = ContinuousBatchingConfig(
            return_logprobs=True, seed=seed, **self._size(requests, decoding)
        )
        try:
            outputs = self.model.generate_batch(
                [list(request.token_ids) for request in requests],
                generation_config=generation,
                continuous_batching_config=batching,
            )
        except MemoryError as error:  # transformers could not size the cache
            raise torch.OutOfMemoryError(str(error)) from error
        errors = [output.error for output in outputs.values() if output.error is not None]
        if any(is_out_of_memory(RuntimeError(error)) for error in errors):
            raise torch.OutOfMemoryError(errors[0])
        if errors or len(outputs) < len(requests):
            why = errors[0] if errors else "its log says why"
            raise InputError(f"sampler=paged: continuous batching ended early ({why}); use cached")
        return [Completion(o.generated_tokens, o.logprobs) for o in outputs.values()]

    def _size(self, requests: Sequence[Request], decoding: Decoding) -> dict[str, int]:
        """Return the size of the paged cache. On a GPU transformers fits it to the memory; on a CPU
        it would take most of it, so the cache is sized for the call.
        """
        if self.model.device.type != "cpu":
            return {}
        longest = max(len(request.token_ids) for request in requests) + decoding.max_new_tokens
        pages = -(-longest // _PAGE) + 1
        return {
            _PAGE_KEY: _PAGE,
            "num_blocks": pages * len(requests),
            "max_batch_tokens": max(
                longest, min(_TOGETHER, sum(len(r.token_ids) for r in requests))
            ),
        }
