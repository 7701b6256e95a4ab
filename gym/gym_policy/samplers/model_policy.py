"""The policy that is a language model: renders dialogues, samples replies, and checks them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel

from gym_dialogue.errors import InputError
from gym_dialogue.messages import Dialogue, Reply
from gym_dialogue.policy import Policy
from gym_policy.completion import Completion, Decoding, Request, Sampler, check_completions
from gym_policy.limits import check_sequence
from gym_policy.out_of_memory import is_out_of_memory, release_memory
from gym_policy.renderer import Renderer
from gym_policy.samplers.cached import CachedSampler
from gym_policy.samplers.generate import GenerateSampler
from gym_policy.samplers.paged import PagedSampler
from gym_policy.samplers.vllm import VllmSampler
from gym_policy.vision import image_token_id

_SAMPLING_STREAM = 1  # of Dialogue.rng; stream 0 is the scripted policies'

SamplerName = Literal["cached", "cached_once", "generate", "static", "paged", "vllm"]


def make_sampler(
    name: SamplerName,
    model: PreTrainedModel,
    engines: Sequence[str] = (),
    weights_dir: str | Path | None = None,
) -> Sampler:
    """Return a sampler by name. `vllm` asks the servers at the addresses `engines`, to which it
    hands weights through `weights_dir`.

    `cached` (the default) reuses keys and values over the turns of an episode; `cached_once` only
    within a call, in half the memory. `generate` and `static` are transformers' `generate` with a
    growing and a fixed cache; `paged` is its continuous batching. A model that `cached` cannot
    serve gets `generate`. Raises InputError if the sampler cannot serve the model.
    """
    if name in ("cached", "cached_once") and CachedSampler.takes(model):
        return CachedSampler(model, keeps=name == "cached")
    if name == "paged":
        return PagedSampler(model)
    if name == "vllm":
        return VllmSampler(model, engines, weights_dir)
    return GenerateSampler(model, static=name == "static")


class ModelPolicy(Policy):
    """A causal language model that answers dialogues, many at once.

    Tokens are drawn from softmax(logits / temperature) without top-k; the image token is
    suppressed. `greedy` takes the most likely token instead. `top_p` below 1 is for evaluation
    only, as learners do not score truncated distributions. Replies end with the model's end of
    turn, or after `max_new_tokens`. At most `batch_size` dialogues share a forward pass. `sampler`
    is a name for `make_sampler`, or a Sampler.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        renderer: Renderer,
        temperature: float = 1.0,
        max_new_tokens: int = 512,
        greedy: bool = False,
        batch_size: int = 512,
        sampler: SamplerName | Sampler = "cached",
        top_p: float = 1.0,
    ):
        if not temperature > 0:
            raise InputError(f"temperature={temperature}: must be above 0 (for argmax, use greedy)")
        self.model = model
        self.renderer = renderer
        self.sampler = make_sampler(sampler, model) if isinstance(sampler, str) else sampler
        self.batch_size = batch_size
        self.decoding = Decoding(
            temperature,
            max_new_tokens,
            greedy,
            renderer.stop_ids,
            renderer.tokenizer.pad_token_id,
            image_token_id(model),
            top_p,
        )

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Switch to evaluation mode without gradients while replies are sampled; by servers, not,
        as the model may be learning meanwhile.
        """
        if isinstance(self.sampler, VllmSampler):
            yield
            return
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.train(was_training)

    def act(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        """Return one reply per dialogue, in order, with token ids and log-probabilities. Raises
        InputError for an invalid reply of the sampler, and for a prompt that the model cannot take.
        """
        requests = [self._request(dialogue) for dialogue in dialogues]
        # Prompts of similar length share a batch, which keeps padding short.
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].token_ids))
        replies: list[Reply | None] = [None] * len(requests)
        vocabulary = self.model.config.get_text_config().vocab_size
        start = 0
        with self.sampling():
            while start < len(order):
                rows = order[start : start + self.batch_size]
                batch = [requests[i] for i in rows]
                try:
                    completions = self.sampler.sample(batch, self.decoding)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    self._use_less(batch, error)
                    continue
                check_completions(completions, batch, self.decoding, vocabulary)
                for i, completion in zip(rows, completions, strict=True):
                    replies[i] = self._reply(completion)
                start += len(rows)
        return replies

    def _use_less(self, batch: Sequence[Request], error: RuntimeError) -> None:
        """Halve the batch size after running out of memory. Raises InputError if it is 1."""
        if len(batch) == 1:
            raise InputError(
                "out of memory while sampling a single reply: lower max_new_tokens, or use a "
                f"smaller model or dtype=bfloat16 ({error})"
            ) from error
        self.batch_size = len(batch) // 2
        for request in batch:
            request.shared.clear()
        release_memory()
        warnings.warn(
            f"out of memory while sampling {len(batch)} dialogues together: continuing with "
            f"{self.batch_size}; lower sampling_batch (in an evaluation batch_size), or set "
            "sampler=cached_once",
            stacklevel=3,
        )

    def _request(self, dialogue: Dialogue) -> Request:
        prompt = self.renderer.render(dialogue)
        check_sequence(self.model, prompt.token_ids, "a prompt", self.decoding.max_new_tokens)
        uniforms = None
        if not self.decoding.greedy:
            uniforms = dialogue.rng(_SAMPLING_STREAM).random(self.decoding.max_new_tokens)
        at = prompt.image_at
        return Request(prompt.token_ids, uniforms, prompt.processed_image, at, dialogue.shared)

    def _reply(self, completion: Completion) -> Reply:
        text = self.renderer.reply_text(completion.token_ids)
        ends = completion.token_ids[-1] in self.decoding.stop_ids
        ids, logprobs = tuple(completion.token_ids), tuple(completion.logprobs)
        return Reply(text, ids, logprobs, "stop" if ends else "length")
