"""One update of a vision-language model with random weights."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from transformers import MllamaProcessor, PreTrainedModel
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

from gym_command.run_dir import saved_checkpoints
from gym_dialogue import rollout
from gym_dialogue.make import EnvConfig, make_envs
from gym_policy import ModelPolicy, Renderer, load_tokenizer
from gym_policy.distributed import join_processes
from gym_policy.models.adapter import add_adapter
from gym_policy.models.load import auto_class
from gym_policy.vision import checkpoint_activations
from rl.actor_critic import ActorCritic
from rl.bench.config import BenchConfig
from rl.bench.device import move
from rl.bench.shapes import find_shape
from rl.bench.table import Ratio
from rl.config import LoraSettings, RLConfig
from rl.experience import to_experience
from rl.learner import Learner
from rl.tasks import TaskStream


@dataclass(frozen=True)
class VisionUpdate:
    """One PPO update from images: parameters of the model and its dtype, pixels and number of an
    image's tiles, turns, seconds, the gap between sampled and scored log-probabilities in nats a
    token, and the peak memory in bytes (0 without a GPU).
    """

    parameters: int
    dtype: torch.dtype
    side: int
    tiles: int
    turns: int
    sampling: float
    learning: float
    gap: float
    peak: int


def bench_vision(config: BenchConfig) -> list[Ratio]:
    """Measure one PPO update from images with adapters on random weights: turns per second and, on
    a GPU, the peak memory.
    """
    done = vision_update(config)
    both = done.sampling + done.learning
    print(
        f"vision   {done.parameters / 1e6:,.1f} M parameters in {done.dtype}, LoRA of rank "
        f"{config.lora_rank}, {done.side} pixels x {done.tiles} tiles: {done.turns} turns in "
        f"{both:.1f} s, {done.turns / both:.2f} turns/s ({done.turns / done.sampling:.2f} sampled, "
        f"{done.turns / done.learning:.2f} learned); log-probabilities off by {done.gap:.1e} a "
        "token"
    )
    if not done.peak:
        return []
    print(f"vision   at most {done.peak / 2**30:.1f} GiB of {torch.cuda.get_device_name()}")
    return [Ratio("vision", "most memory, of 80 GB", done.peak / 80e9, "100 %", "%")]


def vision_update(config: BenchConfig) -> VisionUpdate:
    """Run the PPO update that `bench_vision` reports."""
    device = join_processes().device
    model = _random_model(config.architecture, device)
    vision = model.config.vision_config
    side, tiles = vision.image_size, vision.max_num_tiles
    settings = _settings(config, 2 * side if tiles > 1 else side)
    renderer = _renderer(config.vision_tokenizer, side, tiles)
    checkpoint_activations(model)
    lora = settings.lora
    adapter = add_adapter(
        model, "random", lora.rank, lora.alpha, 0.0, lora.targets, settings.freeze
    )
    actor_critic = ActorCritic(move(model, device), 1.0, adapter=adapter)
    turns, sampling, learning, gap = _update(settings, actor_critic, renderer)
    parameters = sum(p.numel() for p in model.parameters())
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return VisionUpdate(
        parameters, _dtype(device), side, tiles, turns, sampling, learning, gap, peak
    )


def _dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _random_model(name: str, device: torch.device) -> PreTrainedModel:
    """Return a model with random weights for a shape, or a directory's or hub name's
    configuration.
    """
    architecture = find_shape(name)
    torch.manual_seed(0)
    with torch.device(device):
        return auto_class(architecture).from_config(architecture, dtype=_dtype(device)).eval()


def _settings(config: BenchConfig, resolution: int) -> RLConfig:
    """Return the settings of the measured update, with images of `resolution` pixels a side."""
    return RLConfig(
        algorithm="ppo",
        turns_per_update=config.vision_turns,
        num_envs=config.vision_batch,
        sampling_batch=config.vision_batch,
        max_new_tokens=config.vision_new_tokens,
        epochs=1,
        minibatch_size=config.vision_batch,
        microbatch_size=2,
        lr=1e-5,
        lora=LoraSettings(rank=config.lora_rank),
        freeze=["vision"],
        gradient_checkpointing=True,
        env=EnvConfig(kwargs={"language_only": False, "resolution": resolution}),
    )


def _renderer(tokenizer_path: str, side: int, tiles: int) -> Renderer:
    """Return a renderer of a checkpoint's tokenizer, with images in tiles of `side` pixels."""
    tokenizer = load_tokenizer(saved_checkpoints(tokenizer_path)[-1])
    images = MllamaImageProcessorPil(size={"height": side, "width": side}, max_image_tiles=tiles)
    processor = MllamaProcessor(images, tokenizer, chat_template=tokenizer.chat_template)
    return Renderer(tokenizer, processor)


def _update(
    settings: RLConfig, actor_critic: ActorCritic, renderer: Renderer
) -> tuple[int, float, float, float]:
    """Run one update; return turns, seconds of sampling and of learning, and the gap between
    sampled and scored log-probabilities.
    """
    model = actor_critic.model
    learner = Learner(
        settings,
        actor_critic,
        Accelerator(cpu=model.device.type == "cpu"),
        renderer.tokenizer.pad_token_id,
    )
    policy = ModelPolicy(
        model,
        renderer,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.sampling_batch,
    )
    envs = make_envs(settings.env, settings.num_envs)
    stream = TaskStream(settings, 1, 1, 0, 1)
    began = time.perf_counter()
    with learner.sampling():
        episodes = rollout(envs, policy, stream, stream.ended)
    sampled = time.perf_counter()
    stats = learner.learn(1, episodes, to_experience(episodes, renderer, keep_features=True))
    ended = time.perf_counter()
    turns = sum(len(episode.turns) for episode in episodes)
    return turns, sampled - began, ended - sampled, stats["logprob_gap"]
