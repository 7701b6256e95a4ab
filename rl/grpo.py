"""GRPO: the group's mean return in place of a critic.

Shao et al. 2024 (arXiv 2402.03300), with the loss averaged over all tokens of the minibatch (Yu
et al. 2025, arXiv 2503.14476) rather than within each reply.
"""

from __future__ import annotations

from collections.abc import Sequence

from gym_dialogue import Episode
from rl.actor_critic import Scores
from rl.advantages import discounted_return, group_advantages
from rl.config import GRPOConfig
from rl.experience import Batch, Experience
from rl.ppo import Sums, clipped_policy_sums


class GRPO:
    """What GRPO adds to the learner: groups on the same puzzle, their advantages, and the loss."""

    uses_values = False
    normalize = False

    def __init__(self, config: GRPOConfig, importance_cap: float = 2.0):
        self.config = config
        self.importance_cap = importance_cap
        self.group_size = config.group_size
        self.ratio = config.ratio
        self.entropy_coef = config.entropy_coef

    def value_only(self, update: int) -> bool:
        """Return False: there is no critic to warm up."""
        return False

    def set_advantages(
        self, episodes: Sequence[Episode], experiences: Sequence[Experience]
    ) -> None:
        """Give every turn of an episode the episode's group-relative advantage."""
        returns = [
            discounted_return([turn.reward for turn in episode.turns], self.config.gamma)
            for episode in episodes
        ]
        groups = [episode.task.env_seed for episode in episodes]
        advantages = group_advantages(returns, groups, self.config.scale)
        for experience in experiences:
            experience.advantages[:] = advantages[experience.episode]

    def sums(self, scores: Scores, batch: Batch) -> Sums:
        """Return the parts of the loss, summed over a batch."""
        c = self.config
        cap = self.importance_cap
        return clipped_policy_sums(scores, batch, c.ratio, c.clip_low, c.clip_high, cap)
