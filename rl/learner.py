"""The optimisation of one update: epochs over minibatches, on any number of ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from accelerate import Accelerator

from gym_dialogue import Episode, InputError
from rl.actor_critic import ActorCritic
from rl.advantages import explained_variance
from rl.config import Config
from rl.experience import Batch, Experience, collate
from rl.grpo import GRPO
from rl.ppo import PPO

_SHUFFLE_STREAM = 2


def make_optimizer(actor_critic: ActorCritic, config: Config) -> torch.optim.Optimizer:
    """AdamW, with a learning rate of its own for the value head where configured."""
    head = list(actor_critic.value_head.parameters())
    head_ids = {id(p) for p in head}
    body = [p for p in actor_critic.parameters() if p.requires_grad and id(p) not in head_ids]
    groups = [{"params": body, "lr": config.lr}]
    if config.algorithm == "ppo":
        groups.append({"params": head, "lr": config.ppo.value_lr or config.lr})
    for group in groups:
        group["start_lr"] = group["lr"]
    return torch.optim.AdamW(groups, eps=config.adam_eps, weight_decay=config.weight_decay)


def scheduled(start: float, end: float, schedule: str, done: float) -> float:
    """The learning rate after a share `done` (0 to 1) of the updates."""
    if schedule == "constant":
        return start
    left = 1 - done if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return end + (start - end) * left


class Learner:
    """Learns from collected episodes with PPO or GRPO."""

    def __init__(
        self,
        config: Config,
        actor_critic: ActorCritic,
        accelerator: Accelerator,
        pad_token_id: int,
    ):
        self.config = config
        self.accelerator = accelerator
        self.pad_token_id = pad_token_id
        is_ppo = config.algorithm == "ppo"
        self.algorithm = PPO(config.ppo) if is_ppo else GRPO(config.grpo)
        if not is_ppo:  # its parameters get no gradient, which a distributed wrapper would miss
            actor_critic.value_head.requires_grad_(False)
        optimizer = make_optimizer(actor_critic, config)
        self.actor_critic, self.optimizer = accelerator.prepare(actor_critic, optimizer)

    def learn(
        self,
        update: int,
        episodes: Sequence[Episode],
        experiences: Sequence[Experience],
    ) -> dict[str, float]:
        """One update (counted from 1) on this rank's share of the episodes; returns diagnostics
        over all ranks. Raises InputError if the loss stops being a number.
        """
        config, algorithm = self.config, self.algorithm
        stats: dict[str, float] = {}
        if algorithm.uses_values:
            self._set_values(experiences)
        algorithm.set_advantages(episodes, experiences)
        if algorithm.uses_values:
            stats["explained_variance"] = self._explained_variance(experiences)
        if algorithm.normalize:
            self._standardise(experiences)
        for experience in experiences:
            down = np.minimum(experience.advantages, 0) * algorithm.config.negative_weight
            experience.advantages = np.maximum(experience.advantages, 0) + down
        self._set_learning_rate(update)
        value_only = algorithm.value_only(update)

        rng = np.random.default_rng(
            [config.seed, _SHUFFLE_STREAM, update, self.accelerator.process_index]
        )
        totals: dict[str, float] = {}
        self.actor_critic.train()
        for _ in range(config.epochs):
            for minibatch in self._minibatches(experiences, rng):
                found = self._step(minibatch, value_only)
                # The gap between sampled and recomputed log-probabilities is that of the first
                # minibatch: after it the weights have moved.
                stats.setdefault("logprob_gap", found["gap"] / max(found["tokens"], 1))
                for name, value in found.items():
                    totals[name] = totals.get(name, 0.0) + value
        ratios = max(totals["turns"] if algorithm.ratio == "turn" else totals["tokens"], 1)
        return stats | {
            "kl": totals["kl"] / ratios,
            "clip_fraction": totals["clipped"] / ratios,
            "policy_loss": totals["policy"] / ratios,
            "value_loss": totals.get("value", 0.0) / max(totals["turns"], 1),
            "entropy": totals["entropy"] / max(totals["tokens"], 1),
            "grad_norm": totals["grad_norm"] / totals["steps"],
            "optimizer_steps": totals["steps"],
            "lr": self.optimizer.param_groups[0]["lr"],
            "tokens_learned": totals["tokens"],
        }

    def _step(self, minibatch: list[Batch], value_only: bool) -> dict[str, float]:
        """Accumulate the gradient of a minibatch over its microbatches, then step."""
        accelerator, algorithm = self.accelerator, self.algorithm
        sizes = torch.tensor(
            [
                sum(b.weight * len(b.targets) for b in minibatch),
                sum(b.weight * len(b.value_at) for b in minibatch),
            ],
            device=accelerator.device,
        )
        tokens, turns = (max(n, 1.0) for n in accelerator.reduce(sizes, "sum").tolist())
        # Data parallelism averages gradients over ranks; the loss is a mean over all of them.
        world = accelerator.num_processes
        per_ratio = world / (turns if algorithm.ratio == "turn" else tokens)
        sums: dict[str, torch.Tensor] = {}
        for number, batch in enumerate(minibatch):
            is_last = number == len(minibatch) - 1
            with accelerator.no_sync(self.actor_critic) if not is_last else nullcontext():
                scores = self.actor_critic(**batch.model_inputs)
                parts = algorithm.sums(scores, batch)
                loss = torch.zeros((), device=accelerator.device)
                if not value_only:
                    loss = loss + parts["policy"] * per_ratio
                    loss = loss - algorithm.entropy_coef * parts["entropy"] * world / tokens
                if "value" in parts:
                    loss = loss + self.config.ppo.value_coef * parts["value"] * world / turns
                elif scores.values.requires_grad:
                    loss = loss + 0.0 * scores.values.sum()
                if value_only:  # every parameter must take part in the backward pass
                    loss = loss + 0.0 * parts["policy"]
                accelerator.backward(loss * batch.weight)
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value.detach() * batch.weight
        grad_norm = accelerator.clip_grad_norm_(
            self.actor_critic.parameters(), self.config.max_grad_norm
        )
        if grad_norm is None:  # DeepSpeed clips inside its step
            grad_norm = torch.zeros(())
        names = list(sums)
        reduced = accelerator.reduce(torch.stack([sums[n].float() for n in names]), "sum").tolist()
        if not all(map(math.isfinite, reduced)) or not math.isfinite(float(grad_norm)):
            raise InputError(
                "training diverged: the loss or its gradient is not a finite number; lower lr, or "
                "max_grad_norm, and start again from a saved checkpoint"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        return dict(zip(names, reduced, strict=True)) | {
            "tokens": tokens,
            "turns": turns,
            "steps": 1.0,
            "grad_norm": float(grad_norm),
        }

    def _minibatches(self, experiences: Sequence[Experience], rng: np.random.Generator):
        """Shuffled minibatches of microbatches; every rank gets the same number of each.

        Within a minibatch, sequences of similar length share a microbatch.
        """
        size, micro = self.config.minibatch_size, self.config.microbatch_size
        count = self._over_ranks(max(1, math.ceil(len(experiences) / size)), "max")
        order = rng.permutation(len(experiences))
        for part in np.array_split(order, int(count)):
            indices = sorted(part, key=lambda i: len(experiences[i].token_ids))
            chunks = [indices[i : i + micro] for i in range(0, len(indices), micro)]
            passes = int(self._over_ranks(len(chunks), "max"))
            batches = [
                collate([experiences[i] for i in chunk], self.pad_token_id, self.accelerator.device)
                for chunk in chunks
            ]
            while len(batches) < passes:
                filler = [experiences[0]]
                batches.append(collate(filler, self.pad_token_id, self.accelerator.device, 0.0))
            yield batches

    @torch.no_grad()
    def _set_values(self, experiences: Sequence[Experience]) -> None:
        """The critic's value of every turn, before anything is learned from it."""
        self.actor_critic.eval()
        order = sorted(range(len(experiences)), key=lambda i: len(experiences[i].token_ids))
        micro = 4 * self.config.microbatch_size  # no gradients are kept, so more fit
        passes = int(self._over_ranks(math.ceil(len(order) / micro), "max"))
        for number in range(passes):
            part = [experiences[i] for i in order[number * micro : (number + 1) * micro]]
            batch = collate(part or experiences[:1], self.pad_token_id, self.accelerator.device)
            values = self.actor_critic(**batch.model_inputs).values.cpu().numpy()
            for experience in part:
                experience.old_values, values = np.split(values, [len(experience.turns)])[0:2]

    def _standardise(self, experiences: Sequence[Experience]) -> None:
        """Advantages to mean 0 and deviation 1 over the turns of all ranks."""
        mine = np.concatenate([e.advantages for e in experiences])
        moments = torch.tensor([len(mine), mine.sum(), (mine**2).sum()], dtype=torch.float64)
        moments = moments.float().to(self.accelerator.device)
        count, total, squares = self.accelerator.reduce(moments, "sum").tolist()
        mean = total / count
        deviation = math.sqrt(max(squares / count - mean**2, 0.0)) + 1e-8
        for experience in experiences:
            experience.advantages = (experience.advantages - mean) / deviation

    def _explained_variance(self, experiences: Sequence[Experience]) -> float:
        values = np.concatenate([e.old_values for e in experiences])
        returns = np.concatenate([e.returns for e in experiences])
        return self._over_ranks(explained_variance(values, returns), "mean")

    def _set_learning_rate(self, update: int) -> None:
        config = self.config
        done = (update - 1) / config.num_updates
        rise = min(1.0, update / (config.lr_warmup + 1))
        for group in self.optimizer.param_groups:
            lr = scheduled(group["start_lr"], config.lr_end, config.lr_schedule, done)
            group["lr"] = rise * lr

    def _over_ranks(self, value: float, how: str) -> float:
        """The mean or maximum of a number over all ranks."""
        mine = torch.tensor([float(value)], device=self.accelerator.device)
        every = self.accelerator.gather(mine)
        return float(every.max() if how == "max" else every.mean())
