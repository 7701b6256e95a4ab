"""How good each turn was: GAE for PPO, group-relative returns for GRPO."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np

_ROUNDING = 1e-6  # relative; of values in float32, as a critic's are


def gae(
    rewards: Sequence[float], values: Sequence[float] | np.ndarray, gamma: float, lam: float
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate advantages (GAE) over the turns of one whole episode.

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
    """Return the sum of gamma^t r_t over an episode."""
    return float(sum(gamma**t * reward for t, reward in enumerate(rewards)))


def group_advantages(
    returns: Sequence[float], groups: Sequence[Hashable], scale: bool, eps: float = 1e-4
) -> np.ndarray:
    """Return each episode's return less the mean of its group, over the group's deviation if
    `scale`.

    Shao et al. 2024 (arXiv 2402.03300), section 4.1.2; without `scale`, Liu et al. 2025 (arXiv
    2503.20783). A group in which all returns are equal gets zeros.
    """
    values = np.asarray(returns, dtype=float)
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    advantages = np.zeros(len(values))
    for indices in members.values():
        centred = values[indices] - values[indices].mean()
        if _is_rounding(values[indices].std(), np.abs(values[indices]).max()):
            continue
        advantages[indices] = centred / (values[indices].std() + eps) if scale else centred
    return advantages


def standardised(
    values: np.ndarray, over_ranks: Callable[[np.ndarray, str], np.ndarray], eps: float = 1e-8
) -> np.ndarray:
    """Bring values to mean 0 and deviation 1 over those of all ranks; zeros where all are equal.

    `over_ranks` reduces an array by "sum" or "max" over the ranks. The deviation is taken about the
    mean, in float64: that of nearly equal values is lost in the difference of two large squares.
    """
    values = np.asarray(values, dtype=np.float64)
    count, total = over_ranks(np.array([len(values), values.sum()]), "sum")
    centred = values - total / count
    (squares,) = over_ranks(np.array([(centred**2).sum()]), "sum")
    (largest,) = over_ranks(np.array([np.abs(values).max(initial=0.0)]), "max")
    deviation = float(np.sqrt(squares / count))
    if _is_rounding(deviation, largest):
        return np.zeros_like(values)
    return centred / (deviation + eps)


def _is_rounding(deviation: float, largest: float) -> bool:
    """Return whether values with this deviation and largest magnitude are equal up to rounding."""
    return bool(deviation <= _ROUNDING * largest)


def explained_variance(values: np.ndarray, returns: np.ndarray) -> float:
    """Return 1 - Var(returns - values) / Var(returns): 1 for a perfect critic, 0 for a constant."""
    variance = np.var(returns, dtype=np.float64)
    if _is_rounding(np.sqrt(variance), np.abs(returns).max()):
        return float("nan")
    return float(1 - np.var(returns - values) / variance)
