"""Batched sampling of replies from a causal language model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel

from gym_dialogue.errors import InputError
from gym_dialogue.messages import Dialogue, Reply
from gym_dialogue.policy import Policy
from gym_policy.cache import make_cache
from gym_policy.logprobs import draw_tokens, tempered_logprobs
from gym_policy.renderer import Rendered, Renderer
from gym_policy.vision import encode_pictures, generate_inputs, image_token_id, join_pictures

_SAMPLING_STREAM = 1  # of Dialogue.rng; stream 0 is the scripted policies'


class _Draw(LogitsProcessor):
    """Chooses the next token and keeps its log-probability; `generate` then has one choice left.

    Drawing here, from uniforms (B, steps) that each dialogue brings along, keeps the sampled and
    the recorded distribution the same and makes a row independent of its neighbours.
    """

    def __init__(self, temperature: float, forbidden: int | None, uniforms: torch.Tensor | None):
        self.temperature, self.forbidden = temperature, forbidden
        self.uniforms = uniforms
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        logprobs = tempered_logprobs(scores, self.temperature, self.forbidden)
        if self.uniforms is None:
            chosen = logprobs.argmax(-1)
        else:
            chosen = draw_tokens(logprobs, self.uniforms[:, len(self.logprobs)])
        chosen = chosen.unsqueeze(-1)
        self.logprobs.append(logprobs.gather(-1, chosen).squeeze(-1))
        return torch.full_like(scores, -torch.inf).scatter_(-1, chosen, 0.0)


class ModelPolicy(Policy):
    """A causal language model that answers dialogues, many at once.

    Sampling is from softmax(logits / temperature), with no top-k or top-p, but for the token that
    stands for an image, which is never said; `greedy` takes the most likely token instead. Replies
    end at the model's end of turn, or after `max_new_tokens`. At most `batch_size` dialogues go
    through the model together.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        renderer: Renderer,
        temperature: float = 1.0,
        max_new_tokens: int = 512,
        greedy: bool = False,
        batch_size: int = 512,
    ):
        if not temperature > 0:
            raise InputError(f"temperature={temperature}: must be above 0 (for argmax, use greedy)")
        self.model = model
        self.renderer = renderer
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.greedy = greedy
        self.batch_size = batch_size

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Evaluation mode and no gradients while replies are sampled."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.train(was_training)

    def act(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        """One reply to each dialogue, in order, with its token ids and log-probabilities."""
        prompts = [self.renderer.render(dialogue) for dialogue in dialogues]
        # Prompts of similar length share a batch, so that little of it is padding.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].token_ids))
        replies: list[Reply | None] = [None] * len(prompts)
        with self.sampling():
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                batch = self._sample([prompts[i] for i in rows], [dialogues[i] for i in rows])
                for i, reply in zip(rows, batch, strict=True):
                    replies[i] = reply
        return replies

    def _sample(self, prompts: list[Rendered], dialogues: list[Dialogue]) -> list[Reply]:
        input_ids, mask = self._left_pad([prompt.token_ids for prompt in prompts])
        cache = make_cache(self.model.config)
        encode_pictures(self.model, [p.picture for p in prompts if p.picture is not None])
        width = input_ids.shape[1]
        starts = [
            None if p.image_at is None else width - len(p.token_ids) + p.image_at for p in prompts
        ]
        images = join_pictures([p.picture for p in prompts], starts, self.model.device)
        seen = generate_inputs(self.model, input_ids, images, cache)
        del images  # for as long as tokens are sampled, the cache holds what is needed of them
        uniforms = None if self.greedy else self._uniforms(dialogues)
        draw = _Draw(self.temperature, image_token_id(self.model), uniforms)
        sequences = self.model.generate(
            inputs=input_ids,
            attention_mask=mask,
            logits_processor=[draw],
            past_key_values=cache,
            **seen,
            synced_gpus=False,  # under ZeRO-3 whole_weights has gathered them; ranks sample alone
            generation_config=GenerationConfig(
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                eos_token_id=list(self.renderer.stop_ids),
                pad_token_id=self.renderer.tokenizer.pad_token_id,
            ),
        )
        sampled = sequences[:, width:].tolist()
        logprobs = torch.stack(draw.logprobs, dim=1).tolist()
        return [self._reply(row, scores) for row, scores in zip(sampled, logprobs, strict=True)]

    def _reply(self, token_ids: list[int], logprobs: list[float]) -> Reply:
        stops = self.renderer.stop_ids
        length = next((i + 1 for i, t in enumerate(token_ids) if t in stops), len(token_ids))
        token_ids = token_ids[:length]
        text = self.renderer.reply_text(token_ids)
        return Reply(text, tuple(token_ids), tuple(logprobs[:length]))

    def _left_pad(self, prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.renderer.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        return ids.to(self.model.device), mask.to(self.model.device)

    def _uniforms(self, dialogues: list[Dialogue]) -> torch.Tensor:
        draws = [d.rng(_SAMPLING_STREAM).random(self.max_new_tokens) for d in dialogues]
        return torch.from_numpy(np.stack(draws)).to(self.model.device)
