"""Sampling and learning against what the device could do, both measured in the same run."""

from __future__ import annotations

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PretrainedConfig

from gym_policy.architecture import load_architecture
from gym_policy.completion import Decoding, Request
from gym_policy.sampler import make_sampler
from rl.actor_critic import ActorCritic
from rl.bench.config import Config, seconds

SHAPES = {
    "llama-1b": LlamaConfig(
        vocab_size=128_256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        tie_word_embeddings=True,
        rope_theta=500_000.0,
    ),
    "llama-8b": LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=False,
        rope_theta=500_000.0,
    ),
}
LEARNED_TOKENS = 16_384


def bench_limits(config: Config) -> None:
    """Share of the memory bandwidth that decoding reaches (weights and cache are read once a
    token), and of the matrix rate that learning reaches (6 operations a parameter and token).
    """
    is_gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if is_gpu else ("cpu", torch.float32)
    architecture = SHAPES.get(config.shape) or load_architecture(config.shape)
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM._from_config(architecture, dtype=dtype).eval()
    bandwidth, rate = _bandwidth(device), _matrix_rate(device, dtype)
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"limits   {config.shape}: {parameters / 1e6:,.0f} M parameters in {dtype}; memory "
        f"{bandwidth / 1e9:,.0f} GB/s, matrices {rate / 1e12:,.2f} Tflop/s"
    )
    for name in ("cached", "static", "paged"):
        for batch in config.limit_batches:
            _decode(config, model, name, batch, bandwidth)
    _learn(config, model, parameters, rate)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _timed(function) -> float:
    """Seconds of the second call."""
    function()
    _synchronize()
    return seconds(lambda: (function(), _synchronize()))


def _bandwidth(device: str) -> float:
    """Bytes per second of copying a large tensor, read and written."""
    source = torch.zeros(1 << (30 if device == "cuda" else 27), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _timed(lambda: target.copy_(source))


def _matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product."""
    side = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / _timed(lambda: a @ b)


def _decode(
    config: Config, model: LlamaForCausalLM, name: str, batch: int, bandwidth: float
) -> None:
    shape: PretrainedConfig = model.config
    rng = np.random.default_rng(0)
    requests = [
        Request(
            rng.integers(0, shape.vocab_size, config.limit_prompt).tolist(),
            rng.random(config.limit_reply),
        )
        for _ in range(batch)
    ]
    sampler = make_sampler(name, model)
    never = (shape.vocab_size,)  # no token ends a reply

    def sample(tokens: int) -> None:
        for request in requests:
            request.shared.clear()
        sampler.sample(requests, Decoding(1.0, tokens, False, never, 0))

    with torch.no_grad():
        whole = _timed(lambda: sample(config.limit_reply))
        prompts = _timed(lambda: sample(1))
    each = (whole - prompts) / (config.limit_reply - 1)
    head_dim = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    size = next(model.parameters()).element_size()
    middle = config.limit_prompt + config.limit_reply / 2
    cache = 2 * shape.num_hidden_layers * shape.num_key_value_heads * head_dim * middle * size
    weights = sum(p.numel() * size for n, p in model.named_parameters() if "embed" not in n)
    if shape.tie_word_embeddings:
        weights += shape.vocab_size * shape.hidden_size * size
    least = (weights + batch * cache) / bandwidth
    print(
        f"limits   {name}, batch {batch}: {batch / each:,.0f} tokens/s, {1e3 * each:.1f} ms a "
        f"token, {100 * least / each:.0f} % of the bandwidth limit; prompts {prompts:.2f} s"
    )


def _learn(config: Config, model: LlamaForCausalLM, parameters: int, rate: float) -> None:
    critic = ActorCritic(model.train(), 1.0)
    critic.entropy_learns = False
    model.gradient_checkpointing_enable({"use_reentrant": False})
    length = config.limit_prompt + config.limit_reply
    count = max(1, (LEARNED_TOKENS if torch.cuda.is_available() else 512) // length)
    ids = torch.randint(0, model.config.vocab_size, (count, length), device=model.device)
    at = torch.arange(count * length, device=model.device)
    reply = at[(at % length >= config.limit_prompt - 1) & (at % length < length - 1)]

    def step() -> None:
        scores = critic(ids, reply, ids.flatten()[reply + 1], reply[:1])
        (scores.logprobs.mean() + scores.values.sum()).backward()
        critic.zero_grad()

    taken = _timed(step)
    body = parameters - model.get_input_embeddings().weight.numel()
    done = 6 * (body * count * length + model.lm_head.weight.numel() * len(reply))
    print(
        f"limits   learning, {count} x {length} tokens with gradient checkpointing: "
        f"{count * length / taken:,.0f} tokens/s, {100 * done / taken / rate:.0f} % of the matrix "
        "rate (what is computed again does not count)"
    )
