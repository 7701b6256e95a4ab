"""Parts that the tests of rl share: a tiny policy, a one-turn bandit, ways to learn and to run."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from gym_dialogue import DialogueEnv, Prompt, Task, Verdict, rollout
from gym_policy import ModelPolicy, Renderer
from gym_policy.testing import (  # noqa: F401 - for the tests
    THAT_SEE,
    tiny_llama,
    tiny_mllama,
    tiny_tokenizer,
)
from rl.actor_critic import ActorCritic
from rl.backend import make_accelerator
from rl.config import GRPOConfig, PPOConfig, RLConfig
from rl.experience import to_experience
from rl.learner import Learner

ROOT = Path(__file__).parents[1]
PATH = f"{ROOT}:{ROOT / 'gym'}"

SMALL = [
    f"--task={ROOT / 'rl' / 'tests' / 'small_task.yaml'}",
    "--num_updates=2",
    "--turns_per_update=8",
    "--num_envs=8",
    "--max_new_tokens=8",
    "--epochs=2",
    "--minibatch_size=8",
    "--microbatch_size=4",
    "--lr=1e-3",
    "--env.kwargs.verify_iter=2",
    "--grpo.group_size=2",
    "--grpo.entropy_coef=0.01",  # random replies earn equal rewards: keeps the gradient from zero
    "--ppo.value_hidden=[8]",
    "--eval_every=1",
    "--eval.episodes=4",
    "--eval.verify_iter=2",
    "--eval.max_new_tokens=8",
    "--monitor.episodes=2",
    "--monitor.max_new_tokens=8",
]


def command(*arguments, processes=1):
    """Run a module of this project as a user does."""
    module = list(arguments)
    if processes > 1:
        module = ["gym_command.launch", str(processes), *module]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": PATH}
    return subprocess.run(
        [sys.executable, "-m", *module],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def deepspeed(stage):
    """Return the configuration of two CPU processes under a ZeRO stage."""
    return str(ROOT / "scripts" / "accelerate" / f"cpu_zero{stage}_2proc.yaml")


class Bandit(DialogueEnv):
    """One turn, right if the reply is a lower-case letter: about one in ten at the start."""

    def _begin(self, options):
        return Prompt("?", info={"puzzle": str(int(self.np_random.integers(1000)))})

    def _judge(self, reply):
        right = len(reply) == 1 and "a" <= reply <= "z"
        return Verdict(1.0 if right else -1.0, ("RIGHT" if right else "WRONG",), "", right)

    def oracle_reply(self):
        return "a"

    def random_reply(self, rng):
        return chr(rng.integers(33, 127))


def small_config(algorithm, **kwargs):
    """Return a configuration that is small and fast."""
    settings = {
        "algorithm": algorithm,
        "num_updates": 24,
        "turns_per_update": 64,
        "num_envs": 64,
        "max_new_tokens": 1,
        "epochs": 2,
        "minibatch_size": 32,
        "microbatch_size": 16,
        "lr": 3e-3,
        "ppo": PPOConfig(clip=0.2, value_hidden=[16]),
        "grpo": GRPOConfig(group_size=8),
    }
    return RLConfig(**(settings | kwargs))


def make_learner(config, make_model=tiny_llama):
    """Return (policy, learner) around a tiny model with the same random weights every time."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    model = make_model(tokenizer)
    policy = ModelPolicy(model, Renderer(tokenizer), max_new_tokens=config.max_new_tokens)
    actor_critic = ActorCritic(model, config.temperature, tuple(config.ppo.value_hidden))
    learner = Learner(config, actor_critic, make_accelerator(config), tokenizer.pad_token_id)
    return policy, learner


def collect(envs, policy, learner, update, count):
    """Play the episodes of one update, in groups as the algorithm wants them."""
    size = learner.algorithm.group_size
    tasks = [Task(update * 1000 + i // size, (update, i)) for i in range(count)]
    episodes = rollout(envs, policy, tasks)
    return episodes, to_experience(episodes, policy.renderer)
