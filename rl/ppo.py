"""PPO over the turns of a dialogue.

Schulman et al. 2017 (arXiv 1707.06347). A turn is one action; its log-probability is the sum over
the tokens of the reply, or each token is an action of its own that shares its turn's advantage.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from gym_dialogue import Episode
from rl.actor_critic import Scores
from rl.advantages import gae
from rl.config import PPOConfig, RatioLevel
from rl.experience import Batch, Experience

Sums = dict[str, torch.Tensor]
"""Sums over a batch: `policy` over ratios, `value` over turns, `entropy` over tokens, and the
diagnostics `approx_kl`, `clipped`, `gap`."""


def clipped_policy_sums(
    scores: Scores,
    batch: Batch,
    level: RatioLevel,
    clip_low: float,
    clip_high: float,
    importance_cap: float = 2.0,
) -> Sums:
    """Return the clipped surrogate, negated and summed over turns or tokens, with its diagnostics.

    What another distribution has sampled is weighted by truncated importance (Ionides 2008): ratios
    start at 1, from the learner's own log-probabilities, and the weight makes up for the sampler's
    (the decoupled objective of Hilton et al. 2021, arXiv 2110.00641).
    """
    log_ratio = scores.logprobs - batch.old_logprobs
    gap = (scores.logprobs.detach() - batch.sampled_logprobs).abs().sum()
    behind = batch.old_logprobs - batch.sampled_logprobs
    # r_t = pi(a_t | s_t) / pi_old(a_t | s_t), for a turn with log pi = sum_i w_i log pi(token i)
    if level == "turn":
        # How likely the sampler was to say a reply has nothing to do with the weights w_i.
        log_ratio, behind = (
            torch.zeros_like(batch.advantages).index_add(0, batch.token_turn, values)
            for values in (batch.token_weight * log_ratio, behind)
        )
        advantages = batch.advantages
    else:
        advantages = batch.advantages[batch.token_turn] * batch.token_weight
    ratio = log_ratio.exp()
    # L_clip = min(r_t A_t, clip(r_t, 1 - low, 1 + high) A_t)
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    # w_t = min(pi_old(a_t | s_t) / pi_sampler(a_t | s_t), C), which is 1 where the sampler's own
    # log-probabilities are the old ones.
    surrogate = surrogate * behind.exp().clamp(max=importance_cap)
    with torch.no_grad():
        # KL(pi_old || pi), estimated as (r - 1) - log r: unbiased and never negative
        # (Schulman 2020, "Approximating KL divergence", k3).
        kl = (ratio - 1 - log_ratio).sum()
        outside = (ratio != clipped).float().sum()
    return {
        "policy": -surrogate.sum(),
        "entropy": scores.entropy.sum(),
        "approx_kl": kl,
        "clipped": outside,
        "gap": gap,
    }


def ref_kl_sum(scores: Scores, batch: Batch) -> torch.Tensor:
    """Return KL(pi || pi_ref), summed over tokens: estimator k3 of Schulman 2020, as in GRPO (arXiv
    2402.03300, equation 4).
    """
    # pi_ref / pi - log(pi_ref / pi) - 1
    log_ratio = batch.ref_logprobs - scores.logprobs
    return (log_ratio.exp() - log_ratio - 1).sum()


def value_loss_sum(scores: Scores, batch: Batch, value_clip: float) -> torch.Tensor:
    """Return half the squared error of the values, summed over turns; with a clip range the larger
    of the plain and the clipped error, as in OpenAI's PPO.
    """
    # L_V = 1/2 max((V - R)^2, (V_old + clip(V - V_old, -c, c) - R)^2)
    error = (scores.values - batch.returns) ** 2
    if value_clip > 0:
        moved = (scores.values - batch.old_values).clamp(-value_clip, value_clip)
        error = torch.maximum(error, (batch.old_values + moved - batch.returns) ** 2)
    return 0.5 * error.sum()


class PPO:
    """What PPO adds to the learner: GAE with the critic's values, and the loss."""

    group_size = 1
    uses_values = True

    def __init__(self, config: PPOConfig, importance_cap: float = 2.0):
        self.config = config
        self.importance_cap = importance_cap
        self.ratio = config.ratio
        self.entropy_coef = config.entropy_coef

    def value_only(self, update: int) -> bool:
        """Return whether this update (from 1) only warms up the value head."""
        return update <= self.config.value_warmup

    def set_advantages(
        self, episodes: Sequence[Episode], experiences: Sequence[Experience]
    ) -> None:
        """Set advantages by GAE over each episode, from the values that the
        experiences hold.
        """
        by_episode: dict[int, list[Experience]] = {}
        for experience in experiences:
            by_episode.setdefault(experience.episode, []).append(experience)
        for number, parts in by_episode.items():
            rewards = [turn.reward for turn in episodes[number].turns]
            values = np.concatenate([part.old_values for part in parts])
            advantages, returns = gae(rewards, values, self.config.gamma, self.config.lam)
            for part in parts:
                part.advantages = advantages[part.turns]
                part.returns = returns[part.turns]

    @property
    def normalize(self) -> bool:
        """Return whether advantages are standardised over the update."""
        return self.config.normalize

    def sums(self, scores: Scores, batch: Batch) -> Sums:
        """Return the parts of the loss, summed over a batch."""
        clip = self.config.clip
        cap = self.importance_cap
        sums = clipped_policy_sums(scores, batch, self.config.ratio, clip, clip, cap)
        return sums | {"value": value_loss_sum(scores, batch, self.config.value_clip)}
