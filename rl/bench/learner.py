"""The learner: sequences of like length together, against one at a time and against no order.

One at a time is what the released code does: a minibatch of 1, and a step every 128 of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator

from gym_command.run_dir import saved_checkpoints
from gym_dialogue import rollout
from gym_dialogue.make import EnvConfig, make_envs
from gym_policy import ModelPolicy, load_renderer
from rl.actor_critic import ActorCritic
from rl.bench.config import BenchConfig, seconds
from rl.bench.device import load_on_device
from rl.bench.table import Ratio
from rl.config import RLConfig
from rl.experience import Experience, to_experience
from rl.learner import Learner
from rl.tasks import TaskStream

MICRO, MINI = 64, 256


def bench_learner(config: BenchConfig) -> list[Ratio]:
    """Measure dialogues per second over one epoch, with microbatches and without, and the share of
    padding.
    """
    path = saved_checkpoints(config.model)[-1]
    model, renderer = load_on_device(path), load_renderer(path)
    env = EnvConfig(kwargs={"verify_iter": 5})
    policy = ModelPolicy(model, renderer, max_new_tokens=config.max_new_tokens)
    stream = TaskStream(RLConfig(turns_per_update=config.turns), 1, 1, 0, 1)
    episodes = rollout(make_envs(env, config.turns), policy, stream, stream.ended)
    rates: dict[str, list[float]] = {}
    for _ in range(config.repeats):
        for name, micro in (("batched", MICRO), ("single", 1)):
            some = episodes if name == "batched" else episodes[: config.single_turns]
            settings = RLConfig(
                epochs=1, minibatch_size=MINI if micro > 1 else 128, microbatch_size=micro, lr=1e-5
            )
            learner = Learner(
                settings,
                ActorCritic(load_on_device(path), 1.0),
                Accelerator(cpu=not torch.cuda.is_available()),
                renderer.tokenizer.pad_token_id,
            )
            experiences = to_experience(some, renderer)
            taken = seconds(learner.learn, 1, some, experiences)
            rates.setdefault(name, []).append(len(experiences) / taken)
    batched, single = (float(np.median(rates[name])) for name in ("batched", "single"))
    collected = to_experience(episodes, renderer)
    ordered, unordered = _padded(collected, True), _padded(collected, False)
    print(
        f"learner  microbatches of {MICRO}: {batched:,.0f} dialogues/s, of 1: {single:,.0f}; "
        f"{100 * ordered:.0f} % of the tokens are padding, {100 * unordered:.0f} % without order"
    )
    return [
        Ratio("learner", f"microbatches of {MICRO} against 1", batched / single),
        Ratio("learner", "tokens by length against no order", (1 - ordered) / (1 - unordered)),
    ]


def _padded(experiences: Sequence[Experience], in_order: bool) -> float:
    """Return the share of padding in an epoch's microbatches, with minibatches sorted by length or
    not.
    """
    lengths = np.random.default_rng(0).permutation([len(e.token_ids) for e in experiences])
    with_padding = 0
    for start in range(0, len(lengths), MINI):
        part = lengths[start : start + MINI]
        part = np.sort(part) if in_order else part
        chunks = [part[i : i + MICRO] for i in range(0, len(part), MICRO)]
        with_padding += sum(len(chunk) * chunk.max() for chunk in chunks)
    return float(1 - lengths.sum() / with_padding)
