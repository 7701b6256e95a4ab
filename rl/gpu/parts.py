"""What each part measures. A part yields its rows one by one, so that none is lost if it is ended.

What a part needs is imported by it alone, so that one that cannot be served here fails by itself.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from importlib import metadata

from rl.gpu.config import GpuConfig, Part
from rl.gpu.results import Results, Row

PEAK_AIM = "80 GB"


def run_part(config: GpuConfig, part: Part) -> None:
    """Run one part in this process, and write its rows."""
    results = Results(config.run_dir)
    for row in PARTS[part](config):
        results.add(row)
        print(row, flush=True)


def device(config: GpuConfig) -> Iterator[Row]:
    """Name the device and the packages, and measure what the device can do at most."""
    import torch

    from rl.bench.device import processor
    from rl.bench.limits import device_limits

    on_gpu = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if on_gpu else processor()
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30 if on_gpu else 0.0
    yield Row(
        "device", "name", name + (f", {memory:.0f} GiB" if on_gpu else f", {os.cpu_count()} cores")
    )
    packages = ("torch", "transformers", "accelerate", "peft", "deepspeed", "vllm")
    yield Row("device", "packages", ", ".join(f"{p} {_version(p)}" for p in packages))
    yield Row("device", "limits", str(device_limits()))


def llama(config: GpuConfig, part: str, shape: str) -> Iterator[Row]:
    """Measure decoding and learning on a Llama with random weights, against the device's limits."""
    from gym_policy.samplers.model_policy import SamplerName
    from rl.bench.config import BenchConfig
    from rl.bench.limits import decoding_speed, device_limits, learning_speed, random_llama

    bench = BenchConfig(shape=shape)
    if config.shapes == "tiny":
        bench = BenchConfig(
            shape="llama-tiny", limit_batches=[2, 4], limit_prompt=8, limit_reply=24
        )
    model, limits = random_llama(bench.shape), device_limits()
    samplers: tuple[SamplerName, ...] = ("cached", "paged", "static")  # the last one compiles
    for sampler in samplers:
        for batch in bench.limit_batches:
            speed = decoding_speed(bench, model, sampler, batch, limits)
            measured = f"{speed.tokens_per_second:,.0f} tokens/s, {_share(speed.share)} %"
            what = f"decoding at batch {batch}, {sampler}, of the memory bandwidth"
            yield Row(part, what, measured, "50 %")
        if sampler == "cached":  # what matters comes first: time may be up
            speed = learning_speed(bench, model, limits)
            model.eval()
            measured = f"{speed.tokens_per_second:,.0f} tokens/s, {_share(speed.share)} %"
            yield Row(part, "learning, of the matrix rate", measured, "40 %")
    yield from _peak(part)


def vision(config: GpuConfig) -> Iterator[Row]:
    """Measure a PPO update of a Mllama with random weights, from images, by adapters."""
    from pathlib import Path

    from rl.bench.config import BenchConfig
    from rl.bench.vision import vision_update

    tokenizer = str(next(Path("assets/start").glob("gp_vl-*")))
    bench = BenchConfig(vision_tokenizer=tokenizer, vision_turns=16, vision_new_tokens=64)
    if config.shapes == "tiny":
        bench = BenchConfig(
            vision_tokenizer=tokenizer,
            architecture="mllama-tiny",
            vision_turns=4,
            vision_batch=4,
            vision_new_tokens=4,
            lora_rank=2,
        )
    done = vision_update(bench)
    size = f"{done.parameters / 1e9:.2f} B parameters, {done.side} pixels x {done.tiles} tiles"
    what = f"PPO by LoRA of rank {bench.lora_rank} from images, {size}, {done.turns} turns"
    yield Row("vision", f"{what}: sampling", f"{done.turns / done.sampling:.2f} turns/s")
    yield Row("vision", "learning", f"{done.turns / done.learning:.2f} turns/s")
    yield Row("vision", "log-probabilities, sampled against learned", _nats(done.gap))
    yield from _peak("vision")


def samplers(config: GpuConfig) -> Iterator[Row]:
    """Compare every sampler's log-probabilities with the learner's."""
    from rl.gpu.samplers import compare

    yield from compare(config)


def small(config: GpuConfig) -> Iterator[Row]:
    """Train the small model on GeneralPoints for as long as there is time."""
    from rl.gpu.small import learn_the_game

    yield from learn_the_game(config)
    yield from _peak("small")


PARTS: dict[Part, Callable[[GpuConfig], Iterator[Row]]] = {
    "device": device,
    "llama_1b": lambda config: llama(config, "llama_1b", "llama-1b"),
    "llama_8b": lambda config: llama(config, "llama_8b", "llama-8b"),
    "vision": vision,
    "samplers": samplers,
    "small": small,
}


def _peak(part: str) -> Iterator[Row]:
    """Yield the most memory that this process has had, if there is a GPU."""
    import torch

    if torch.cuda.is_available():
        most = torch.cuda.max_memory_allocated() / 1e9
        yield Row(part, "peak memory", f"{most:.1f} GB", PEAK_AIM)


def _share(share: float) -> str:
    """Return a share in per cent: whole from 1 % on, else with two digits."""
    return f"{100 * share:.0f}" if share >= 0.01 else f"{100 * share:.2g}"


def _nats(gap: float) -> str:
    return f"{gap:.1e} nats a token"


def _version(package: str) -> str:
    if importlib.util.find_spec(package) is None:
        return "is missing"
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of an unknown version"
