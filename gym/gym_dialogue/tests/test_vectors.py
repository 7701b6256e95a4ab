"""Gymnasium's vectors and wrappers play the same episodes as one environment does."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers.vector import RecordEpisodeStatistics

COUNT = 3
KWARGS = {
    "gym_cards:gym_cards/GeneralPoint-oneline-v0": {"verify_iter": 2},
    "gym_virl:gym_virl/Navigation-v0": {"verify_iter": 2, "max_legs": 2},
}
MODES = {"sync": {}, "async": {"vector_kwargs": {"shared_memory": False}}}


def _episode(env_id, seed):
    """Prompt, replies, and rewards of an episode: a mistake, then the oracle's replies."""
    env = gym.make(env_id, **KWARGS[env_id])
    obs, _ = env.reset(seed=seed)
    prompt, replies, rewards, is_over = obs["text"], [], [], False
    while not is_over:
        replies.append(env.unwrapped.oracle_reply() if replies else "a mistake")
        _, reward, is_over, _, _ = env.step(replies[-1])
        rewards.append(reward)
    return prompt, replies, rewards


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", KWARGS)
def test_vector_plays_the_episodes_of_its_environments(env_id, mode):
    episodes = [_episode(env_id, seed) for seed in range(COUNT)]
    with_kwargs = KWARGS[env_id] | MODES[mode]
    envs = RecordEpisodeStatistics(
        gym.make_vec(env_id, num_envs=COUNT, vectorization_mode=mode, **with_kwargs)
    )
    obs, _ = envs.reset(seed=0)
    assert obs["text"] == tuple(prompt for prompt, _, _ in episodes)
    returns = np.zeros(COUNT)
    for step in range(max(len(replies) for _, replies, _ in episodes)):
        actions = tuple(replies[step] if step < len(replies) else "" for _, replies, _ in episodes)
        _, rewards, terminated, _, info = envs.step(actions)
        for number, (_, replies, expected) in enumerate(episodes):
            if step < len(replies):
                assert rewards[number] == expected[step]
                assert terminated[number] == (step + 1 == len(replies))
            if step + 1 == len(replies):
                assert info["episode"]["l"][number] == len(replies)
                returns[number] = info["episode"]["r"][number]
    assert returns.tolist() == [sum(rewards) for _, _, rewards in episodes]
    envs.close()


@pytest.mark.parametrize("mode", MODES)
def test_vector_stacks_images(mode):
    env_id, shown = next(iter(KWARGS)), {"language_only": False, "resolution": 84}
    envs = gym.make_vec(env_id, num_envs=COUNT, vectorization_mode=mode, **shown | MODES[mode])
    obs, _ = envs.reset(seed=0)
    first, _ = gym.make(env_id, **shown).reset(seed=0)
    assert obs["image"].shape == (COUNT, *first["image"].shape)
    assert (obs["image"][0] == first["image"]).all()
    envs.close()
