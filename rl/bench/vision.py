"""One update of a model that sees, with random weights of any size."""

from __future__ import annotations

import time

import torch
from accelerate import Accelerator
from transformers import MllamaProcessor
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

from gym_command.run_dir import saved_checkpoints
from gym_dialogue import rollout
from gym_dialogue.make import EnvConfig, make_envs
from gym_policy import ModelPolicy, Renderer, load_tokenizer
from gym_policy.distributed import join_processes
from gym_policy.models.adapter import add_adapter
from gym_policy.models.architecture import load_architecture
from gym_policy.models.load import auto_class
from gym_policy.vision import checkpoint_activations
from rl.actor_critic import ActorCritic
from rl.bench.config import Config
from rl.bench.table import Ratio
from rl.config import LoraSettings
from rl.config import RLConfig as TrainConfig
from rl.experience import to_experience
from rl.learner import Learner
from rl.tasks import TaskStream


def bench_vision(config: Config) -> list[Ratio]:
    """One PPO update from images, by adapters on an architecture with random weights: turns per
    second and, on a GPU, the most memory.
    """
    device = join_processes().device
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    architecture = load_architecture(config.architecture)
    torch.manual_seed(0)
    with torch.device(device):
        model = auto_class(architecture).from_config(architecture, dtype=dtype).eval()
    side, tiles = (getattr(architecture.vision_config, n) for n in ("image_size", "max_num_tiles"))
    settings = TrainConfig(
        algorithm="ppo",
        turns_per_update=config.vision_turns,
        num_envs=config.vision_batch,
        max_new_tokens=config.vision_new_tokens,
        epochs=1,
        minibatch_size=config.vision_batch,
        microbatch_size=2,
        lr=1e-5,
        lora=LoraSettings(rank=config.lora_rank),
        freeze=["vision"],
        gradient_checkpointing=True,
        env=EnvConfig(
            kwargs={"language_only": False, "resolution": 2 * side if tiles > 1 else side}
        ),
    )
    envs = make_envs(settings.env, settings.num_envs)
    tokenizer = load_tokenizer(saved_checkpoints(config.vision_tokenizer)[-1])
    images = MllamaImageProcessorPil(size={"height": side, "width": side}, max_image_tiles=tiles)
    processor = MllamaProcessor(images, tokenizer, chat_template=tokenizer.chat_template)
    renderer = Renderer(tokenizer, processor)
    checkpoint_activations(model)
    lora = settings.lora
    adapter = add_adapter(
        model, "random", lora.rank, lora.alpha, 0.0, lora.targets, settings.freeze
    )
    model.to(device)
    actor_critic = ActorCritic(model, 1.0, adapter=adapter)
    accelerator = Accelerator(cpu=device.type == "cpu")
    learner = Learner(settings, actor_critic, accelerator, tokenizer.pad_token_id)
    policy = ModelPolicy(
        model,
        renderer,
        max_new_tokens=settings.max_new_tokens,
        batch_size=config.vision_batch,
    )
    stream = TaskStream(settings, 1, 1, 0, 1)
    began = time.perf_counter()
    with learner.sampling():
        episodes = rollout(envs, policy, stream, stream.ended)
    sampled = time.perf_counter()
    stats = learner.learn(1, episodes, to_experience(episodes, renderer, keep_features=True))
    ended = time.perf_counter()
    turns = sum(len(episode.turns) for episode in episodes)
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"vision   {parameters / 1e6:,.1f} M parameters in {dtype}, LoRA of rank {lora.rank}, "
        f"{side} pixels x {tiles} tiles: {turns} turns in {ended - began:.1f} s, "
        f"{turns / (ended - began):.2f} turns/s ({turns / (sampled - began):.2f} sampled, "
        f"{turns / (ended - sampled):.2f} learned); log-probabilities off by "
        f"{stats['logprob_gap']:.1e} a token"
    )
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
        print(f"vision   at most {peak:.1f} GiB of {torch.cuda.get_device_name()}")
        return [Ratio("vision", "most memory, of 80 GB", peak * 2**30 / 80e9, "100 %", "%")]
    return []
