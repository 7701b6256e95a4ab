"""Sampling and learning against the limits of the device, and an update against one dialogue at a
time, on a Llama with random weights; all measured in the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from transformers import LlamaForCausalLM, PreTrainedConfig

from gym_command.run_dir import saved_checkpoints
from gym_policy import load_renderer
from gym_policy.completion import Decoding, Request
from gym_policy.models.adapter import add_adapter
from gym_policy.samplers.model_policy import SamplerName, make_sampler
from gym_policy.vision import checkpoint_activations
from rl.actor_critic import ActorCritic
from rl.bench.config import BenchConfig, seconds
from rl.bench.device import move
from rl.bench.end_to_end import ACCUMULATED, against_one_at_a_time
from rl.bench.shapes import find_shape
from rl.bench.table import Ratio
from rl.config import LoraSettings, RLConfig

LEARNED_TOKENS = 16_384
SAMPLERS: tuple[SamplerName, ...] = ("cached", "static", "paged")


def bench_limits(config: BenchConfig) -> list[Ratio]:
    """Measure the share of the memory bandwidth that decoding reaches (weights and cache are read
    once per token) and the share of the matrix rate that learning reaches (6 operations per
    parameter and token); then the speedup of a batched update with adapters over one dialogue at a
    time.
    """
    model = random_llama(config.shape)
    limits = device_limits()
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"limits   {config.shape}: {parameters / 1e6:,.0f} M parameters in {model.dtype}; {limits}"
    )
    ratios = []
    for name in SAMPLERS:
        for batch in config.limit_batches:
            share = decoding_speed(config, model, name, batch, limits).share
            what = f"{config.shape}, {name}, batch {batch}: decoding, of the memory bandwidth"
            ratios.append(Ratio("limits", what, share, "50 %", "%"))
    share = learning_speed(config, model, limits).share
    what = f"{config.shape}: learning, of the matrix rate"
    ratios.append(Ratio("limits", what, share, "40 %", "%"))
    speedups = _update(config, model)
    for what, ratio, aim in zip(
        ("sampling", "learning", "both"), speedups, ("", "", "20 x"), strict=True
    ):
        what = f"{config.shape}, by adapters: {what}, many against one at a time"
        ratios.append(Ratio("limits", what, ratio, aim))
    return ratios


@dataclass(frozen=True)
class DeviceLimits:
    """Measured bytes per second of copying, and operations per second of a matrix product."""

    bandwidth: float
    matrix_rate: float

    def __str__(self) -> str:
        return (
            f"memory {self.bandwidth / 1e9:,.0f} GB/s, matrices "
            f"{self.matrix_rate / 1e12:,.2f} Tflop/s"
        )


@dataclass(frozen=True)
class Speed:
    """Tokens per second, and the share of the device's limit that this is."""

    tokens_per_second: float
    share: float


def device_limits() -> DeviceLimits:
    """Measure the limits of the device: memory, and matrices in the dtype of `random_llama`."""
    device, dtype = _device_and_dtype()
    return DeviceLimits(_bandwidth(device), _matrix_rate(device, dtype))


def random_llama(shape: str) -> LlamaForCausalLM:
    """Return a Llama of a shape with random weights, made on the device; in bfloat16 on a GPU."""
    device, dtype = _device_and_dtype()
    torch.manual_seed(0)
    with torch.device(device):
        return LlamaForCausalLM._from_config(find_shape(shape), dtype=dtype).eval()


def _device_and_dtype() -> tuple[str, torch.dtype]:
    return ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _timed(function: Callable[[], object], times: int = 1) -> float:
    """Return the mean seconds of a call, after a first one that does not count."""
    function()
    _synchronize()

    def again() -> None:
        for _ in range(times):
            function()
        _synchronize()

    return seconds(again) / times


def _bandwidth(device: str) -> float:
    """Return bytes per second, read and written, of copying a large tensor."""
    source = torch.zeros(1 << (30 if device == "cuda" else 27), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _timed(lambda: target.copy_(source), times=10)


def _matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Return operations per second of a large matrix product."""
    side = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / _timed(lambda: a @ b, times=10)


def random_requests(config: BenchConfig, vocabulary: int, count: int) -> list[Request]:
    """Return prompts of random tokens, to be continued by sampling."""
    rng = np.random.default_rng(0)
    return [
        Request(
            rng.integers(0, vocabulary, config.limit_prompt).tolist(),
            rng.random(config.limit_reply),
        )
        for _ in range(count)
    ]


def decoding_speed(
    config: BenchConfig,
    model: LlamaForCausalLM,
    name: SamplerName,
    batch: int,
    limits: DeviceLimits,
) -> Speed:
    """Measure decoding by a sampler: `batch` prompts of `limit_prompt` tokens are continued by
    `limit_reply`; the time of the prompts does not count. The limit is to read weights and cache
    once per token.
    """
    requests = random_requests(config, model.config.vocab_size, batch)
    sampler = make_sampler(name, model)
    never = (model.config.vocab_size,)  # no token ends a reply

    def sample(tokens: int) -> None:
        for request in requests:
            request.shared.clear()
        sampler.sample(requests, Decoding(1.0, tokens, False, never, 0))

    with torch.no_grad():
        whole = _timed(lambda: sample(config.limit_reply))
        prompts = _timed(lambda: sample(1))
    # On tiny shapes noise may be more than all of the decoding.
    each = (whole - prompts if prompts < whole else whole) / (config.limit_reply - 1)
    least = _bytes_per_token(config, model, batch) / limits.bandwidth
    print(
        f"limits   {name}, batch {batch}: {batch / each:,.0f} tokens/s, {1e3 * each:.1f} ms a "
        f"token, {100 * least / each:.0f} % of the bandwidth limit; prompts {prompts:.2f} s"
    )
    return Speed(batch / each, least / each)


def _bytes_per_token(config: BenchConfig, model: LlamaForCausalLM, batch: int) -> float:
    """Return the bytes of the weights and of the cache in the middle of a reply."""
    shape: PreTrainedConfig = model.config
    head_dim = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    size = next(model.parameters()).element_size()
    middle = config.limit_prompt + config.limit_reply / 2
    cache = 2 * shape.num_hidden_layers * shape.num_key_value_heads * head_dim * middle * size
    weights = sum(p.numel() * size for n, p in model.named_parameters() if "embed" not in n)
    if shape.tie_word_embeddings:
        weights += shape.vocab_size * shape.hidden_size * size
    return weights + batch * cache


def learning_speed(config: BenchConfig, model: LlamaForCausalLM, limits: DeviceLimits) -> Speed:
    """Measure a forward and backward pass over all weights. The limit is 6 operations per parameter
    and token; what gradient checkpointing computes again does not count.
    """
    critic = ActorCritic(model.train(), 1.0)
    critic.entropy_learns = False
    checkpoint_activations(model)
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
    parameters = sum(p.numel() for p in model.parameters())
    body = parameters - model.model.embed_tokens.weight.numel()
    done = 6 * (body * count * length + model.lm_head.weight.numel() * len(reply))
    print(
        f"limits   learning, {count} x {length} tokens with gradient checkpointing: "
        f"{count * length / taken:,.0f} tokens/s, "
        f"{100 * done / taken / limits.matrix_rate:.0f} % of the matrix rate (what is computed "
        "again does not count)"
    )
    return Speed(count * length / taken, done / taken / limits.matrix_rate)


def _update(config: BenchConfig, model: LlamaForCausalLM) -> tuple[float, float, float]:
    """Return the speedup of a batched update: in sampling, learning, both."""
    lora = LoraSettings(rank=config.lora_rank)
    adapter = add_adapter(model, config.shape, lora.rank, lora.alpha, 0.0, lora.targets)
    critic = ActorCritic(move(model, model.device), 1.0, adapter=adapter)
    settings = RLConfig(
        turns_per_update=config.limit_turns,
        num_envs=config.limit_turns,
        max_new_tokens=config.limit_reply,
        minibatch_size=ACCUMULATED,
        microbatch_size=16,
    )
    renderer = load_renderer(saved_checkpoints(config.model)[-1])
    return against_one_at_a_time(settings, config.limit_single_turns, 1, lambda: critic, renderer)
