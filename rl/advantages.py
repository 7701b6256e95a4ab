"""How good each turn was: GAE for PPO, group-relative returns for GRPO."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def gae(
    rewards: Sequence[float], values: Sequence[float], gamma: float, lam: float
) -> tuple[np.ndarray, np.ndarray]:
    """Generalised advantage estimation over the turns of one whole episode.

    `rewards` and `values` have one entry per turn. The episode ends after the last turn, so
    nothing is bootstrapped. Returns (advantages, returns), each (turns,).

    Schulman et al. 2016 (arXiv 1506.02438), equations 11 to 16.
    """
    advantages = np.zeros(len(rewards))
    following = 0.0
    for t in reversed(range(len(rewards))):
        next_value = values[t + 1] if t + 1 < len(rewards) else 0.0
        # delta_t = r_t + gamma V(s_{t+1}) - V(s_t)
        delta = rewards[t] + gamma * next_value - values[t]
        # A_t = delta_t + gamma lambda A_{t+1}
        following = delta + gamma * lam * following
        advantages[t] = following
    return advantages, advantages + np.asarray(values, dtype=float)


def discounted_return(rewards: Sequence[float], gamma: float) -> float:
    """The sum of gamma^t r_t over an episode."""
    return float(sum(gamma**t * reward for t, reward in enumerate(rewards)))


def group_advantages(
    returns: Sequence[float], groups: Sequence[Hashable], scale: bool, eps: float = 1e-4
) -> np.ndarray:
    """Each episode's return less the mean of its group, over the group's deviation if `scale`.

    Shao et al. 2024 (arXiv 2402.03300), section 4.1.2; without `scale`, Liu et al. 2025 (arXiv
    2503.20783). A group in which all returns are equal gets zeros.
    """
    returns = np.asarray(returns, dtype=float)
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    advantages = np.zeros(len(returns))
    for indices in members.values():
        centred = returns[indices] - returns[indices].mean()
        advantages[indices] = centred / (returns[indices].std() + eps) if scale else centred
    return advantages


def explained_variance(values: np.ndarray, returns: np.ndarray) -> float:
    """1 - Var(returns - values) / Var(returns): 1 for a perfect critic, 0 for a constant."""
    variance = np.var(returns)
    return float("nan") if variance == 0 else float(1 - np.var(returns - values) / variance)
