"""The most memory of the loss, against that of the transformer body alone."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from rl.actor_critic import ActorCritic
from rl.bench.config import Config

BATCH = 8


class Live(TorchDispatchMode):
    """Bytes of the tensors that are alive, and at most were; a module's weights and gradients
    do not count."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.now = self.peak = 0
        own = [t for p in module.parameters() for t in (p, p.grad) if t is not None]
        self._seen = {tensor.untyped_storage()._cdata for tensor in own}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage._cdata not in self._seen:
                self._seen.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _freed(self, key: int, size: int) -> None:
        self._seen.remove(key)
        self.now -= size


def loss_against_body(vocabulary: int, tokens: int, device: str) -> tuple[int, int]:
    """(peak bytes of forward and backward pass with the loss on every token, the same of the body
    alone), beside weights, of a Llama of 4 layers of 256 on 8 sequences.
    """
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).to(device)
    critic = ActorCritic(model, 1.0, (8,))
    critic.entropy_learns = False
    # Gradients of weights are there in both; the embeddings' would hide all else.
    for parameter in critic.parameters():
        parameter.grad = torch.zeros_like(parameter)
    ids = torch.randint(0, vocabulary, (BATCH, tokens), device=device)
    at = torch.arange(BATCH * tokens, device=device)
    predict_at = at[at % tokens < tokens - 1]
    with Live(critic) as with_loss:
        scores = critic(ids, predict_at, ids.flatten()[predict_at + 1], predict_at[:1])
        (scores.logprobs.mean() + scores.values.sum()).backward()
    del scores
    with Live(critic) as alone:
        model.model(input_ids=ids, use_cache=False).last_hidden_state.mean().backward()
    return with_loss.peak, alone.peak


def bench_memory(config: Config) -> None:
    """Peak memory of a microbatch of 8 sequences, all tokens of which are scored."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loss, body = loss_against_body(config.vocabulary, config.memory_tokens, device)
    whole = 4 * BATCH * config.memory_tokens * config.vocabulary
    print(
        f"memory   {BATCH} x {config.memory_tokens:,} tokens, vocabulary {config.vocabulary:,}: "
        f"with the loss {loss / 2**30:.2f} GiB, the body alone {body / 2**30:.2f} GiB, "
        f"{loss / body:.2f} x (all logits at once would be {whole / 2**30:.1f} GiB)"
    )
