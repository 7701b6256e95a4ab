"""Sampling with transformers' continuous batching: a scheduler over a paged cache, which fills the
place of a reply that has ended with the next prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel

from gym_dialogue.errors import InputError
from gym_policy.completion import Completion, Decoding, Request
from gym_policy.out_of_memory import is_out_of_memory

_PAGE = 32  # tokens of a page of the cache on a CPU
_TOGETHER = 2048  # tokens of a forward pass there, whose mask is as wide as the whole cache


class PagedSampler:
    """Samples with `generate_batch`, for models of text. What it draws depends on the whole call,
    and its kernels are not those that learning uses.

    The paged cache lives for one call, so that nothing in it outlasts a change of the weights.
    Greedy replies have the log-probabilities of temperature 1.
    """

    def __init__(self, model: PreTrainedModel):
        if hasattr(model.config, "vision_config"):
            raise InputError("sampler=paged: serves models of text only; use cached")
        self.model = model

    def sample(self, requests: Sequence[Request], decoding: Decoding) -> list[Completion]:
        """One completion of each request, in order. Raises InputError where transformers could not
        go on, and OutOfMemoryError where that was for lack of memory.
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
            found = self.model.generate_batch(
                [list(request.token_ids) for request in requests],
                generation_config=generation,
                continuous_batching_config=batching,
            )
        except MemoryError as error:  # what transformers foresees for the cache
            raise torch.OutOfMemoryError(str(error)) from error
        errors = [f.error for f in found.values() if f.error is not None]
        if any(is_out_of_memory(RuntimeError(error)) for error in errors):
            raise torch.OutOfMemoryError(errors[0])
        if errors or len(found) < len(requests):
            why = errors[0] if errors else "its log says why"
            raise InputError(f"sampler=paged: continuous batching ended early ({why}); use cached")
        return [Completion(f.generated_tokens, f.logprobs) for f in found.values()]

    def _size(self, requests: Sequence[Request], decoding: Decoding) -> dict[str, int]:
        """The size of the paged cache: on a GPU transformers finds what fits; on a CPU it would
        take most of the memory, and gets what the call needs.
        """
        if self.model.device.type != "cpu":
            return {}
        longest = max(len(request.token_ids) for request in requests) + decoding.max_new_tokens
        pages = -(-longest // _PAGE) + 1
        return {
            "page_size": _PAGE,
            "num_blocks": pages * len(requests),
            "max_batch_tokens": max(
                longest, min(_TOGETHER, sum(len(r.token_ids) for r in requests))
            ),
        }
