"""The episodes that an update plays, each with a seed of its own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gym_dialogue import Episode, Task
from gym_policy.training.stop import StopRequest
from rl.config import RLConfig

_TRAIN_STREAM = 0x7EA1  # tells training seeds from evaluation seeds


class TaskStream:
    """The episodes of one update: whole groups, until `turns_per_update` turns are certain.

    Each is seeded by (seed, update, index), and ranks take indices in turn, so no two episodes of
    a run share a stream and an update does not depend on those before it.
    """

    def __init__(
        self,
        config: RLConfig,
        group_size: int,
        update: int,
        rank: int,
        world: int,
        stop: StopRequest | None = None,
    ):
        self.config, self.group_size, self.update = config, group_size, update
        self.rank, self.world = rank, world
        self.stop = stop
        self.played_turns = 0  # of episodes that have ended
        self.in_play = 0

    def __iter__(self) -> Iterator[Task]:
        group = self.rank
        while self.played_turns + self.in_play < self.config.turns_per_update:
            if self.stop is not None and self.stop.received:
                return  # the update will not be learned from: start nothing more
            key = (_TRAIN_STREAM, self.config.seed, self.update, group)
            env_seed = int(np.random.SeedSequence(key).generate_state(1)[0])
            for member in range(self.group_size):
                self.in_play += 1
                yield Task(env_seed, (*key, member))
            group += self.world

    def ended(self, episode: Episode) -> None:
        """Count an episode that has been played to its end."""
        self.in_play -= 1
        self.played_turns += len(episode.turns)
