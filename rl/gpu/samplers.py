"""Every sampler's log-probabilities against the learner's, on the same prompts."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence

import torch
from transformers import LlamaForCausalLM

from gym_dialogue import InputError
from gym_policy.completion import Completion, Decoding, Request, Sampler
from gym_policy.samplers.model_policy import SamplerName, make_sampler
from gym_policy.samplers.vllm import VllmSampler
from rl.actor_critic import ActorCritic
from rl.bench.config import BenchConfig
from rl.bench.limits import random_llama, random_requests
from rl.gpu.config import GpuConfig
from rl.gpu.results import Row

NAMES: tuple[SamplerName, ...] = ("generate", "cached", "cached_once", "paged", "static")
SHARPNESS = 4.0
"""Factor on the logits of random weights, which say next to nothing otherwise."""


def compare(config: GpuConfig) -> Iterator[Row]:
    """Yield the mean and the largest difference of each sampler, in nats a token."""
    is_tiny = config.shapes == "tiny"
    model = random_llama("llama-tiny" if is_tiny else "llama-1b")
    with torch.no_grad():
        model.model.norm.weight.mul_(SHARPNESS)
    bench = BenchConfig(limit_prompt=8 if is_tiny else 128, limit_reply=4 if is_tiny else 64)
    requests = random_requests(bench, model.config.vocab_size, 4 if is_tiny else 64)
    dtypes = [torch.float32, torch.bfloat16] if torch.cuda.is_available() else [torch.float32]
    for dtype in dtypes:
        torch.nn.Module.to(model, dtype=dtype)
        for name in NAMES:
            yield _row(name, make_sampler(name, model), model, requests, bench)
        yield _of_vllm(config, model, requests, bench)


def _of_vllm(
    config: GpuConfig, model: LlamaForCausalLM, requests: Sequence[Request], bench: BenchConfig
) -> Row:
    """Return the row of vLLM, which takes the weights first; or why there is none."""
    what = f"vllm, {_name(model.dtype)}"
    if not config.engines:
        if importlib.util.find_spec("vllm") is None:
            return Row("samplers", what, "skipped: vllm is not installed")
        return Row("samplers", what, "skipped: name a server with --engines (scripts/serve.sh)")
    try:
        sampler = VllmSampler(model, config.engines)
        sampler.update("1", [requests[0].token_ids])
    except InputError as error:
        return Row("samplers", what, f"failed: {error}")
    return _row("vllm", sampler, model, requests, bench)


def _row(
    name: str,
    sampler: Sampler,
    model: LlamaForCausalLM,
    requests: Sequence[Request],
    bench: BenchConfig,
) -> Row:
    """Sample by a sampler, and return how far its log-probabilities are from the learner's."""
    for request in requests:
        request.shared.clear()
    never = (model.config.vocab_size,)  # no token ends a reply
    try:
        with torch.no_grad():
            replies = sampler.sample(requests, Decoding(1.0, bench.limit_reply, False, never, 0))
            gaps = _gaps(model, requests, replies)
    except (RuntimeError, ValueError, TypeError, AttributeError, ImportError) as error:
        # What other versions of transformers refuse in other ways: the other samplers go on.
        reason = " ".join(str(error).split())[:200]
        return Row("samplers", f"{name}, {_name(model.dtype)}", f"failed: {reason}")
    measured = f"mean {gaps.mean():.1e}, at most {gaps.max():.1e} nats a token"
    aim = "mean 1e-3" if model.dtype == torch.float32 else "mean 2e-2"
    return Row("samplers", f"{name}, {_name(model.dtype)}, from the learner", measured, aim)


def _gaps(
    model: LlamaForCausalLM, requests: Sequence[Request], replies: Sequence[Completion]
) -> torch.Tensor:
    """Return the differences (N,), in nats, of replies that are all as long as each other."""
    rows = [
        [*request.token_ids, *reply.token_ids]
        for request, reply in zip(requests, replies, strict=True)
    ]
    ids = torch.tensor(rows, device=model.device)
    length, prompt = ids.shape[1], len(requests[0].token_ids)
    at = torch.arange(ids.numel(), device=model.device)
    predict_at = at[(at % length >= prompt - 1) & (at % length < length - 1)]
    critic = ActorCritic(model, 1.0, (8,))
    torch.nn.Module.to(critic, device=model.device, dtype=model.dtype)
    scores = critic(ids, predict_at, ids.flatten()[predict_at + 1], predict_at[:1])
    sampled = torch.tensor([reply.logprobs for reply in replies], device=model.device).flatten()
    return (scores.logprobs.float() - sampled).abs()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
