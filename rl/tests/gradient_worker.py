"""Learns one minibatch of eight dialogues and leaves its gradient: run by test_distributed, alone
and as one of several ranks.
"""

import json
import sys

import torch

import gym_cards
from gym_dialogue.make import EnvConfig, make_envs
from rl.checkpoint import _full_states
from rl.config import PPOConfig
from rl.experience import to_experience
from rl.testing import collect, make_learner, small_config

BETA1 = 0.9
MAX_GRAD_NORM = 1.0  # less than it is, so that clipping shows


def main(out, microbatch_size):
    """The gradient by parameter, read off Adam's first moment after its first step."""
    from accelerate import PartialState

    state = PartialState(cpu=True)
    ppo = PPOConfig(clip=0.2, value_hidden=[16], entropy_coef=0.01, ratio="turn")
    config = small_config(
        "ppo",
        ppo=ppo,
        max_new_tokens=6,
        epochs=1,
        minibatch_size=8 // state.num_processes,
        microbatch_size=microbatch_size,
        prefix_weight=0.5,
        max_grad_norm=MAX_GRAD_NORM,
    )
    policy, learner = make_learner(config)
    # A value of its own for every turn, so that the critic's gradient reaches all of its layers.
    torch.manual_seed(1)
    envs = make_envs(EnvConfig(gym_cards.ENV_ID, {"verify_iter": 3}), 8)
    with learner.sampling():
        episodes, _ = collect(envs, policy, learner, 1, 8)
    share = 8 // state.num_processes
    rank_episodes = episodes[state.process_index * share : (state.process_index + 1) * share]
    for episode in rank_episodes:  # rewards that differ from turn to turn
        for index, turn in enumerate(episode.turns):
            object.__setattr__(turn, "reward", turn.reward + index * (episode.task.env_seed % 5))
    stats = learner.learn(
        1, rank_episodes, to_experience(rank_episodes, policy.renderer, config.prefix_weight)
    )
    moments = dict(_full_states(learner.inner, learner.optimizer))
    gradient = {
        name: moment.detach().cpu().double() / (1 - BETA1)
        for name, moment in moments.items()
        if name.endswith(":exp_avg")
    }
    if state.is_main_process:
        torch.save({"gradient": gradient, "stats": json.dumps(stats)}, out)
    state.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
