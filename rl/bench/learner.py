"""The learner: sequences of like length together, against one at a time and against no order."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator

from gym_dialogue import rollout
from gym_dialogue.command import EnvConfig, make_envs
from gym_policy import ModelPolicy, load_model, load_renderer
from gym_policy.load import saved_checkpoints
from rl.actor_critic import ActorCritic
from rl.bench.config import Config, seconds
from rl.config import Config as TrainConfig
from rl.experience import to_experience
from rl.learner import Learner
from rl.train import TaskStream


def bench_learner(config: Config) -> None:
    """Dialogues per second of one epoch over what was collected once."""
    path = saved_checkpoints(config.model)[-1]
    model, renderer = load_model(path), load_renderer(path)
    env = EnvConfig(kwargs={"verify_iter": 5})
    policy = ModelPolicy(model, renderer, max_new_tokens=config.max_new_tokens)
    stream = TaskStream(TrainConfig(num_steps=config.turns), 1, 1, 0, 1)
    episodes = rollout(make_envs(env, config.turns), policy, stream, stream.ended)
    rates: dict[str, list[float]] = {}
    for _ in range(config.repeats):
        for name, micro in (("batched", 64), ("single", 1)):
            some = episodes if name == "batched" else episodes[: config.single_turns]
            settings = TrainConfig(
                epochs=1, minibatch_size=256 if micro > 1 else 1, microbatch_size=micro, lr=1e-5
            )
            learner = Learner(
                settings,
                ActorCritic(load_model(path), 1.0),
                Accelerator(cpu=not torch.cuda.is_available()),
                renderer.tokenizer.pad_token_id,
            )
            experiences = to_experience(some, renderer)
            taken = seconds(learner.learn, 1, some, experiences)
            rates.setdefault(name, []).append(len(experiences) / taken)
    batched, single = (float(np.median(rates[name])) for name in ("batched", "single"))
    print(
        f"learner  microbatches of 64: {batched:,.0f} dialogues/s, of 1: {single:,.0f}; "
        f"{batched / single:.1f} x"
    )
