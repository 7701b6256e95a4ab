"""Peak memory of the loss against that of the transformer body alone."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig

from gym_policy.logprobs import LOGITS_AT_ONCE
from gym_policy.models.load import auto_class
from gym_policy.vision import checkpoint_activations
from rl.actor_critic import ActorCritic
from rl.bench.config import BenchConfig
from rl.bench.device import device_name, move
from rl.bench.shapes import find_shape
from rl.bench.table import Ratio

BATCH = 8


class Live(TorchDispatchMode):
    """Tracks the bytes of live tensors, now and at the peak. A module's weights and their existing
    gradients do not count.
    """

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.now = self.peak = 0
        weights = [t for p in module.parameters() for t in (p, p.grad) if t is not None]
        self._seen = {tensor.untyped_storage()._cdata for tensor in weights}

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


def tensors_of(critic: ActorCritic, tokens: int, vocabulary: int) -> tuple[torch.Tensor, ...]:
    """Return the arguments of a pass over 8 sequences that scores all tokens but the first."""
    device = critic.model.device
    ids = torch.randint(0, vocabulary, (BATCH, tokens), device=device)
    rows = torch.arange(BATCH, device=device).unsqueeze(1) * tokens
    predict_at = (rows + torch.arange(tokens - 1, device=device)).flatten()
    return ids, predict_at, ids.flatten()[predict_at + 1], predict_at[:1]


def loss_against_body(critic: ActorCritic, tokens: int, vocabulary: int) -> tuple[int, int]:
    """Return the peak bytes of a forward and backward pass with the loss on all tokens, and the
    same of the body alone. Weights and their gradients, the same in both, do not count.
    """
    critic.entropy_learns = False  # as by default, where it has no coefficient
    for parameter in critic.parameters():
        parameter.grad = torch.zeros_like(parameter)
    given = tensors_of(critic, tokens, vocabulary)
    with Live(critic) as with_loss:
        scores = critic(*given)
        (scores.logprobs.mean() + scores.values.sum()).backward()
    del scores
    body = getattr(critic.model, critic.model.base_model_prefix)
    with Live(critic) as alone:
        body(input_ids=given[0], use_cache=False).last_hidden_state.mean().backward()
    return with_loss.peak, alone.peak


def small_critic(vocabulary: int, device: str) -> ActorCritic:
    """Return an ActorCritic of 4 layers of width 256, small beside its logits."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    return ActorCritic(move(LlamaForCausalLM(config), device), 1.0, (8,))


def counted(architecture: PreTrainedConfig, tokens: int) -> tuple[int, int]:
    """Return the same as loss_against_body for a model in bfloat16 with gradient checkpointing on a
    GPU, by running it on fake tensors, which have no memory. The result is within a tenth of a
    measurement (rl/tests/test_memory.py).
    """
    with torch.device("meta"):
        model = auto_class(architecture).from_config(architecture, dtype=torch.bfloat16)
        critic = ActorCritic(model, 1.0, (8,)).train()
    checkpoint_activations(model)
    with FakeTensorMode(allow_non_fake_inputs=True), _logits_of_a_gpu():
        # Attention kernels are chosen by device: meta tensors would get the one that is not fused.
        on_cpu: dict[torch.Tensor, nn.Parameter] = {}
        for module in critic.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter not in on_cpu:  # weights may be tied
                    on_cpu[parameter] = nn.Parameter(torch.empty_like(parameter, device="cpu"))
                module._parameters[name] = on_cpu[parameter]
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = torch.empty_like(buffer, device="cpu")
        return loss_against_body(critic, tokens, architecture.get_text_config().vocab_size)


@contextmanager
def _logits_of_a_gpu() -> Iterator[None]:
    """Score as many logits at once on the CPU as on a GPU."""
    before = LOGITS_AT_ONCE["cpu"]
    LOGITS_AT_ONCE["cpu"] = LOGITS_AT_ONCE["cuda"]
    try:
        yield
    finally:
        LOGITS_AT_ONCE["cpu"] = before


def bench_memory(config: BenchConfig) -> list[Ratio]:
    """Find the peak memory of a microbatch of 8 sequences with all tokens scored: measured on a
    small model, counted for large ones.
    """
    device = device_name()
    small = small_critic(config.vocabulary, device)
    peaks = {
        "4 layers of 256, measured": loss_against_body(
            small, config.memory_tokens, config.vocabulary
        )
    }
    for name in config.memory_shapes:
        what = f"{name} in bfloat16 with gradient checkpointing, counted"
        peaks[what] = counted(find_shape(name), config.memory_tokens)
    whole = 4 * BATCH * config.memory_tokens * config.vocabulary
    print(
        f"memory   {BATCH} x {config.memory_tokens:,} tokens, vocabulary {config.vocabulary:,}: "
        f"all logits at once would be {whole / 2**30:.1f} GiB in float32"
    )
    for what, (loss, body) in peaks.items():
        print(f"memory   {what}: {loss / 2**30:.2f} GiB, {body / 2**30:.2f} GiB the body alone")
    return [
        Ratio(
            "memory", f"{what}: with the loss against the body alone", loss / body, "at most 1.3 x"
        )
        for what, (loss, body) in peaks.items()
    ]
