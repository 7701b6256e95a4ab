"""GRPO by TRL (peer_requirements.txt) on the same model, prompts, group size and tokens."""

from __future__ import annotations

import math
import tempfile
import time
from typing import Any

import gymnasium
import numpy as np
import torch
from accelerate import Accelerator

import gym_cards
from gym_command.run_dir import saved_checkpoints
from gym_dialogue import InputError, Message, Task, rollout
from gym_dialogue.make import EnvConfig, make_envs
from gym_policy import ModelPolicy, Renderer, load_model, load_renderer
from rl.actor_critic import ActorCritic
from rl.bench.config import BenchConfig
from rl.bench.device import load_on_device
from rl.bench.table import Ratio
from rl.config import GRPOConfig, RLConfig
from rl.experience import to_experience
from rl.learner import Learner

GROUP = 8
LR = 1e-5
MICRO = 64


def bench_peer(config: BenchConfig) -> list[Ratio]:
    """Measure the reply tokens per second that an update samples and learns from, here and in TRL.

    Measurements alternate. Both sides get the same hands with one verified reply each, take one
    AdamW step on all replies in equal microbatches at the same learning rate, and use no KL term.
    """
    try:
        import trl
    except ImportError as error:
        raise InputError(
            "section peer: needs TRL; bash scripts/bench.sh peer installs it beside the rest (or "
            "pip install -r rl/bench/peer_requirements.txt)"
        ) from error
    path = saved_checkpoints(config.model)[-1]
    rates: dict[str, list[float]] = {"here": [], "trl": []}
    for repeat in range(config.repeats):
        # The seeds of each update's hands, shared by both sides.
        seeds = (repeat + 1) * 1_000_000 + np.arange(config.peer_updates * config.peer_prompts)
        deals = seeds.reshape(config.peer_updates, config.peer_prompts).tolist()
        for name, measure in (("here", _here), ("trl", _trl)):
            tokens, taken = measure(config, path, deals)
            rates[name].append(tokens / taken)
            updates = config.peer_updates - 1
            print(
                f"peer     {name}: {updates} updates of {config.peer_prompts} prompts x {GROUP} "
                f"replies, {tokens:,} tokens sampled and learned in {taken:.1f} s, "
                f"{taken / updates:.2f} s an update"
            )
    here, there = (float(np.median(rates[name])) for name in ("here", "trl"))
    print(f"peer     {here:,.0f} reply tokens/s, TRL {trl.__version__} {there:,.0f}")
    return [Ratio("peer", "GRPO, tokens a second against TRL's", here / there, "1.5 x")]


def _microbatch(count: int) -> int:
    """Return the replies per pass: at most 64, in a whole number of passes."""
    return math.gcd(count, MICRO)


def _here(config: BenchConfig, path: str, deals: list[list[int]]) -> tuple[int, float]:
    """Return (reply tokens, seconds) of all updates but the first."""
    count = config.peer_prompts * GROUP
    settings = RLConfig(
        algorithm="grpo",
        max_new_tokens=config.max_new_tokens,
        epochs=1,
        minibatch_size=count,
        microbatch_size=_microbatch(count),
        lr=LR,
        grpo=GRPOConfig(group_size=GROUP),
        env=EnvConfig(kwargs={"verify_iter": 1}),
    )
    model, renderer = load_on_device(path), load_renderer(path)
    policy = ModelPolicy(model, renderer, max_new_tokens=config.max_new_tokens)
    learner = Learner(
        settings,
        ActorCritic(model, 1.0),
        Accelerator(cpu=not torch.cuda.is_available()),
        renderer.tokenizer.pad_token_id,
    )
    envs = make_envs(settings.env, count)
    tokens, began = 0, 0.0
    for update, dealt in enumerate(deals, 1):
        if update == 2:
            began, tokens = time.perf_counter(), 0
        tasks = [Task(deal, (deal, member)) for deal in dealt for member in range(GROUP)]
        with learner.sampling():
            episodes = rollout(envs, policy, tasks)
        stats = learner.learn(update, episodes, to_experience(episodes, renderer))
        tokens += int(stats["tokens_learned"])
    return tokens, time.perf_counter() - began


def _trl(config: BenchConfig, path: str, deals: list[list[int]]) -> tuple[int, float]:
    """Return the same for TRL's GRPOTrainer, which samples with transformers."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOTrainer

    renderer = load_renderer(path)
    env = gymnasium.make(gym_cards.ENV_ID, verify_iter=1)
    rows = []
    for deal in (deal for dealt in deals for deal in dealt):
        text = env.reset(seed=deal)[0]["text"]
        rows.append({"prompt": _prompt(renderer, text), "env_seed": deal})
    moments: list[float] = []
    tokens: list[int] = []

    def reward(completion_ids: list[list[int]], env_seed: list[int], **_: Any) -> list[float]:
        tokens.append(sum(map(len, completion_ids)))
        rewards = []
        for ids, seed in zip(completion_ids, env_seed, strict=True):
            env.reset(seed=seed)
            rewards.append(float(env.step(renderer.reply_text(ids))[1]))
        return rewards

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            moments.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as directory:
        trainer = GRPOTrainer(
            model=load_model(path),
            reward_funcs=reward,
            args=_trl_arguments(config, directory),
            train_dataset=Dataset.from_list(rows),
            processing_class=renderer.tokenizer,
            callbacks=[Clock()],
        )
        trainer.train()
    return sum(tokens[1:]), moments[-1] - moments[0]


def _trl_arguments(config: BenchConfig, directory: str) -> Any:
    """Return TRL's settings for the updates that `_here` takes."""
    from trl import GRPOConfig as PeerConfig

    count = config.peer_prompts * GROUP
    return PeerConfig(
        output_dir=directory,
        per_device_train_batch_size=_microbatch(count),
        gradient_accumulation_steps=count // _microbatch(count),
        num_generations=GROUP,
        max_completion_length=config.max_new_tokens,
        num_iterations=1,
        max_steps=config.peer_updates,
        learning_rate=LR,
        lr_scheduler_type="constant",
        beta=0.0,
        temperature=1.0,
        top_k=0,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        shuffle_dataset=False,
    )


def _prompt(renderer: Renderer, text: str) -> str:
    """Return a prompt as text, which is what TRL takes. Raises InputError if the tokenizer does not
    turn it back into the tokens that are used here.
    """
    ids = list(renderer.render([Message("user", text)]).token_ids)
    prompt: str = renderer.tokenizer.decode(ids)  # type: ignore[assignment]  # of one sequence
    if renderer.tokenizer(prompt)["input_ids"] != ids:
        raise InputError("section peer: this model's tokenizer does not read back what it wrote")
    return prompt
