"""The optimisation of one update: epochs over minibatches, on any number of ranks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from accelerate import Accelerator

from gym_dialogue import Episode, InputError
from gym_policy.distributed import whole_weights
from gym_policy.out_of_memory import is_out_of_memory, release_memory
from gym_policy.parts import parameter_groups
from rl.actor_critic import ActorCritic, Scores
from rl.advantages import explained_variance, standardised
from rl.backend import accumulation_steps, prepare, zero_stage
from rl.config import RLConfig
from rl.experience import Batch, Experience, collate
from rl.grpo import GRPO
from rl.ppo import PPO, ref_kl_sum

_SHUFFLE_STREAM = 2
_TORCH_STREAM = 3
SCORED_TOGETHER = 4
"""Microbatches whose values are computed in one pass."""
LOOKED_AT = 16
"""Dialogues from which it is told whether the sampler's log-probabilities are the learner's."""
TOLERATED_GAP = 0.02
"""Mean difference, in nats a token, between the log-probabilities of sampler and learner up to
which the sampler's are taken as they are."""

_RESUME = "--resume takes up the last checkpoint (--dry_run tells what a run needs)"


def _rank_seed(seed: int, update: int, rank: int) -> int:
    """Return the seed of torch's generator (dropout) in one update: a function of it, so that no
    state has to be kept to resume.
    """
    return int(np.random.SeedSequence([seed, _TORCH_STREAM, update, rank]).generate_state(1)[0])


def _hand_out(experiences: Sequence[Experience], name: str, values: np.ndarray) -> None:
    """Cut values over a batch into those of its sequences."""
    start = 0
    for experience in experiences:
        end = start + len(getattr(experience, name))
        setattr(experience, name, values[start:end])
        start = end


def make_optimizer(actor_critic: ActorCritic, config: RLConfig) -> torch.optim.Optimizer:
    """Return AdamW, with learning rates of their own for the value head and for parts of the model
    where configured.
    """
    head = list(actor_critic.value_head.parameters())
    head_ids = {id(p) for p in head}
    body = [(name, p) for name, p in actor_critic.named_parameters() if id(p) not in head_ids]
    groups = parameter_groups(body, config.lr, dict(config.part_lr.items()))
    if config.algorithm == "ppo":
        groups.append({"params": head, "lr": config.ppo.value_lr or config.lr})
    for group in groups:
        group["peak_lr"] = group["lr"]
    return torch.optim.AdamW(groups, eps=config.adam_eps, weight_decay=config.weight_decay)


def scheduled(peak: float, end: float, schedule: str, done: float) -> float:
    """Return the learning rate after a share `done` of the schedule; that of its end beyond 1."""
    done = min(done, 1.0)
    if schedule == "constant":
        return peak
    left = 1 - done if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return end + (peak - end) * left


class Learner:
    """Learn from collected episodes with PPO or GRPO.

    `reference` is a frozen copy of the policy that KL is to; without it, that is the policy with
    its adapter switched off.
    """

    def __init__(
        self,
        config: RLConfig,
        actor_critic: ActorCritic,
        accelerator: Accelerator,
        pad_token_id: int,
        reference: ActorCritic | None = None,
    ):
        self.config = config
        self.accelerator = accelerator
        self.pad_token_id = pad_token_id
        self.microbatch_size = config.microbatch_size
        self.scoring_batch = SCORED_TOGETHER * config.microbatch_size  # no gradients: more fit
        is_ppo = config.algorithm == "ppo"
        cap = config.importance_cap
        self.algorithm = PPO(config.ppo, cap) if is_ppo else GRPO(config.grpo, cap)
        actor_critic.entropy_learns = self.algorithm.entropy_coef != 0
        if not is_ppo:  # its parameters get no gradient, which a distributed wrapper would miss
            actor_critic.value_head.requires_grad_(False)
        self.inner, self.reference = actor_critic, reference
        optimizer = make_optimizer(actor_critic, config)
        self.actor_critic, self.optimizer = prepare(accelerator, config, actor_critic, optimizer)
        # DeepSpeed divides each loss by the number of microbatches that it expects; the sums below
        # are normalised already.
        self.undo_scale = accumulation_steps(config) if zero_stage(accelerator) else 1

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Hold the model as it samples: whole weights on every rank, computing as learning does."""
        with whole_weights(self.actor_critic), self.accelerator.autocast():
            yield

    @property
    def scoring_passes(self) -> int:
        """Return how many times an update's dialogues go through a model between sampling and
        learning: the policy for values and log-probabilities, the reference model for its own.
        """
        config = self.config
        has_reference = config.kl_coef > 0
        scores = self.algorithm.uses_values or has_reference or config.old_logprobs != "sampled"
        return scores + has_reference

    def learn(
        self,
        update: int,
        episodes: Sequence[Episode],
        experiences: Sequence[Experience],
    ) -> dict[str, float]:
        """Learn from this rank's share of the episodes of an update (counted from 1); return
        metrics over all ranks. Raises InputError if the loss stops being a number, or memory runs
        out.
        """
        torch.manual_seed(_rank_seed(self.config.seed, update, self.accelerator.process_index))
        metrics = self._weigh(episodes, experiences)
        self._set_learning_rate(update)
        totals = self._epochs(update, experiences)
        # Where nothing was recomputed, the gap between the log-probabilities of sampler and learner
        # is that of the first minibatch: after it the weights have moved.
        metrics.setdefault("logprob_gap", totals.pop("first_gap"))
        tokens, turns = max(totals["tokens"], 1), max(totals["turns"], 1)
        ratios = turns if self.algorithm.ratio == "turn" else tokens
        if self.config.kl_coef > 0:
            metrics["ref_kl"] = totals["ref_kl"] / tokens
        return metrics | {
            "approx_kl": totals["approx_kl"] / ratios,
            "clip_fraction": totals["clipped"] / ratios,
            "policy_loss": totals["policy"] / ratios,
            "value_loss": totals.get("value", 0.0) / turns,
            "entropy": totals["entropy"] / tokens,
            "grad_norm": totals["grad_norm"] / totals["steps"],
            "optimizer_steps": totals["steps"],
            "lr": self.optimizer.param_groups[0]["lr"],
            "tokens_learned": totals["tokens"],
        }

    def _weigh(
        self, episodes: Sequence[Episode], experiences: Sequence[Experience]
    ) -> dict[str, float]:
        """Give every turn its advantage; return metrics of the scores that this takes."""
        algorithm = self.algorithm
        metrics: dict[str, float] = {}
        if self.scoring_passes:
            metrics |= self._in_memory("scoring_batch", lambda: self._score(experiences))
        algorithm.set_advantages(episodes, experiences)
        if algorithm.uses_values:
            metrics["explained_variance"] = self._explained_variance(experiences)
        if algorithm.normalize:
            self._standardise(experiences)
        for experience in experiences:
            down = np.minimum(experience.advantages, 0) * algorithm.config.negative_weight
            experience.advantages = np.maximum(experience.advantages, 0) + down
        return metrics

    def _epochs(self, update: int, experiences: Sequence[Experience]) -> dict[str, float]:
        """Take the optimizer steps of an update; return the totals of what `_step` returns, and
        `first_gap`, the mean gap a token of the first step.
        """
        key = [self.config.seed, _SHUFFLE_STREAM, update, self.accelerator.process_index]
        rng = np.random.default_rng(key)
        value_only = self.algorithm.value_only(update)
        totals: dict[str, float] = {}
        self._spare = experiences[0]  # keeps a rank that has less in step with the others
        self.actor_critic.train()
        for _ in range(self.config.epochs):
            for part in self._minibatches(experiences, rng):
                sums = self._step_in_memory(part, value_only)
                totals.setdefault("first_gap", sums["gap"] / max(sums["tokens"], 1))
                for name, value in sums.items():
                    totals[name] = totals.get(name, 0.0) + value
        return totals

    def _step(self, minibatch: list[Batch], value_only: bool) -> dict[str, float]:
        """Accumulate the gradient of a minibatch over its microbatches, then step; return its sums
        over all ranks.
        """
        tokens, turns = self._sizes(minibatch)
        sums: dict[str, torch.Tensor] = {}
        for number, batch in enumerate(minibatch):
            batch = batch.to(self.accelerator.device)
            with self._accumulating(is_last=number == len(minibatch) - 1):
                scores = self.actor_critic(**batch.model_inputs)
                parts = self.algorithm.sums(scores, batch)
                if self.config.kl_coef > 0:
                    parts["ref_kl"] = ref_kl_sum(scores, batch)
                loss = self._loss(parts, scores, tokens, turns, value_only)
                self.accelerator.backward(loss * batch.weight * self.undo_scale)
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value.detach() * batch.weight
        # Under DeepSpeed the last backward pass has clipped and stepped, and this only asks.
        grad_norm = self.accelerator.clip_grad_norm_(
            self.actor_critic.parameters(), self.config.max_grad_norm
        )
        grad_norm = 0.0 if grad_norm is None else float(grad_norm)
        names = list(sums)
        stacked = torch.stack([sums[name].float() for name in names])
        reduced = self.accelerator.reduce(stacked, "sum").tolist()
        if not all(map(math.isfinite, reduced)) or not math.isfinite(grad_norm):
            raise InputError(
                "training diverged: the loss or its gradient is not a finite number; lower lr, or "
                "max_grad_norm, and start again from a saved checkpoint"
            )
        self._optimize()
        counts = {"tokens": tokens, "turns": turns, "steps": 1.0, "grad_norm": grad_norm}
        return dict(zip(names, reduced, strict=True)) | counts

    def _sizes(self, minibatch: list[Batch]) -> tuple[float, float]:
        """Return the tokens and turns of a minibatch over all ranks, at least 1 of each."""
        sizes = torch.tensor(
            [
                sum(b.weight * len(b.targets) for b in minibatch),
                sum(b.weight * len(b.value_at) for b in minibatch),
            ],
            device=self.accelerator.device,
        )
        tokens, turns = (max(n, 1.0) for n in self.accelerator.reduce(sizes, "sum").tolist())
        return tokens, turns

    def _loss(
        self,
        parts: dict[str, torch.Tensor],
        scores: Scores,
        tokens: float,
        turns: float,
        value_only: bool,
    ) -> torch.Tensor:
        """Return the part of a minibatch's loss that a microbatch has. `parts` are its sums,
        `tokens` and `turns` the sizes of the minibatch over all ranks.
        """
        # Data parallelism averages gradients over ranks; the loss is a mean over all of them.
        world = self.accelerator.num_processes
        loss = torch.zeros((), device=self.accelerator.device)
        if not value_only:
            per_ratio = world / (turns if self.algorithm.ratio == "turn" else tokens)
            loss = loss + parts["policy"] * per_ratio
            loss = loss - self.algorithm.entropy_coef * parts["entropy"] * world / tokens
            if self.config.kl_coef > 0:
                loss = loss + self.config.kl_coef * parts["ref_kl"] * world / tokens
        if "value" in parts:
            loss = loss + self.config.ppo.value_coef * parts["value"] * world / turns
        elif scores.values.requires_grad:
            loss = loss + 0.0 * scores.values.sum()
        if value_only:  # every parameter must take part in the backward pass
            loss = loss + 0.0 * parts["policy"]
        return loss

    def _optimize(self) -> None:
        """Take the optimizer's step, which cannot be begun anew: it may have moved some weights."""
        try:
            self.optimizer.step()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(
                "out of memory in the optimizer's step, whose states take 8 bytes a trained "
                "parameter: set lora.rank, or spread them over GPUs or to the host's memory "
                f"(scripts/accelerate/gpu8_zero2_offload.yaml); {_RESUME}"
            ) from error
        self.optimizer.zero_grad()

    def _step_in_memory(self, part: Sequence[Experience], value_only: bool) -> dict[str, float]:
        """Step on a minibatch, in microbatches that fit."""
        return self._in_memory(
            "microbatch_size", lambda: self._step(self._microbatches(part), value_only)
        )

    def _in_memory(self, size: str, attempt: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Return what an attempt returns; where memory does not suffice it is begun anew with half
        the `size` (the attribute that says how many dialogues it takes together). Raises InputError
        where that cannot be: other ranks would wait.
        """
        while True:
            try:
                return attempt()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                together = getattr(self, size)
                what = f"out of memory while learning from {together} dialogues together: "
                alone = self.accelerator.num_processes == 1 and not zero_stage(self.accelerator)
                if together == 1 or not alone:
                    lower = "max_new_tokens" if together == 1 else "microbatch_size"
                    raise InputError(
                        f"{what}lower {lower}, or set gradient_checkpointing=true or "
                        f"lora.rank; {_RESUME}"
                    ) from error
                setattr(self, size, together // 2)
                self.optimizer.zero_grad()
                release_memory()
                warnings.warn(
                    f"{what}going on with {together // 2}; lower microbatch_size, or set "
                    "gradient_checkpointing=true",
                    stacklevel=3,
                )

    def _minibatches(self, experiences: Sequence[Experience], rng: np.random.Generator):
        """Yield shuffled minibatches; every rank gets as many."""
        size = self.config.minibatch_size
        count = self._over_ranks(max(1, math.ceil(len(experiences) / size)), "max")
        order = rng.permutation(len(experiences))
        for part in np.array_split(order, int(count)):
            yield [experiences[i] for i in part]

    def _microbatches(self, part: Sequence[Experience]) -> list[Batch]:
        """Cut a minibatch into microbatches of sequences of similar length; every rank gets as
        many. They go to the device one by one: images are large.
        """
        micro = self.microbatch_size
        ordered = sorted(part, key=lambda experience: len(experience.token_ids))
        chunks = [ordered[i : i + micro] for i in range(0, len(ordered), micro)]
        passes = int(self._over_ranks(len(chunks), "max"))
        batches = [collate(chunk, self.pad_token_id, "cpu") for chunk in chunks]
        while len(batches) < passes:
            batches.append(collate([self._spare], self.pad_token_id, "cpu", 0.0))
        return batches

    @contextmanager
    def _accumulating(self, is_last: bool) -> Iterator[None]:
        """Hold one microbatch's passes; the ranks exchange gradients in the last one only."""
        self.accelerator.sync_gradients = is_last  # DeepSpeed steps where it is True
        try:
            waits = nullcontext() if is_last else self.accelerator.no_sync(self.actor_critic)
            with waits:
                yield
        finally:
            self.accelerator.sync_gradients = True

    @torch.no_grad()
    def _score(self, experiences: Sequence[Experience]) -> dict[str, float]:
        """Compute what is needed of the weights before they learn: the critic's value of every
        turn, the reference's log-probabilities, and the policy's own, in the place of those
        recorded in sampling where these are off. Returns how far off they are, where that is known.
        """
        self.actor_critic.eval()
        # The longest first, so that memory runs out early if it does.
        order = sorted(range(len(experiences)), key=lambda i: -len(experiences[i].token_ids))
        wants_reference = self.config.kl_coef > 0
        # What older weights have sampled is weighted by importance.
        recomputes = self.config.old_logprobs == "recomputed" or self.config.overlap > 0
        # Open until a first batch has been looked at.
        is_open = self.config.old_logprobs == "auto" and not recomputes
        stats: dict[str, float] = {}
        size = self.scoring_batch
        only_looks = is_open and not (wants_reference or self.algorithm.uses_values)
        first = min(size, LOOKED_AT) if only_looks else size
        passes = 1 + math.ceil(max(0, len(order) - first) / size)
        for number in range(int(self._over_ranks(passes, "max"))):
            start = first + (number - 1) * size if number else 0
            part = [experiences[i] for i in order[start : first + number * size]]
            batch = collate(part or experiences[:1], self.pad_token_id, self.accelerator.device)
            if is_open or recomputes:
                scores = self.actor_critic(**batch.model_inputs)
                gap = (scores.logprobs - batch.sampled_logprobs).abs().mean()
                stats.setdefault("logprob_gap", self._over_ranks(gap, "mean"))
                if is_open:
                    is_open, recomputes = False, stats["logprob_gap"] > TOLERATED_GAP
                if recomputes:
                    _hand_out(part, "old_logprobs", scores.logprobs.cpu().numpy())
                _hand_out(part, "old_values", scores.values.cpu().numpy())
            elif self.algorithm.uses_values:
                values = self.actor_critic(**batch.value_inputs).values.cpu().numpy()
                _hand_out(part, "old_values", values)
            if wants_reference:
                _hand_out(part, "ref_logprobs", self._ref_logprobs(batch).cpu().numpy())
            if not (recomputes or wants_reference or self.algorithm.uses_values):
                break
        return stats

    def _ref_logprobs(self, batch: Batch) -> torch.Tensor:
        if self.reference is not None:
            with self.accelerator.autocast():
                return self.reference(**batch.model_inputs).logprobs
        assert self.inner.adapter is not None  # there is a reference otherwise
        with self.inner.adapter.disable_adapter():
            return self.actor_critic(**batch.model_inputs).logprobs

    def _standardise(self, experiences: Sequence[Experience]) -> None:
        """Bring advantages to mean 0 and deviation 1 over the turns of all ranks."""
        advantages = np.concatenate([e.advantages for e in experiences])
        _hand_out(experiences, "advantages", standardised(advantages, self._reduced))

    def _explained_variance(self, experiences: Sequence[Experience]) -> float:
        values = np.concatenate([e.old_values for e in experiences])
        returns = np.concatenate([e.returns for e in experiences])
        return self._over_ranks(explained_variance(values, returns), "mean")

    def _set_learning_rate(self, update: int) -> None:
        config = self.config
        done = (update - 1) / (config.lr_horizon or config.num_updates)
        rise = min(1.0, update / (config.lr_warmup + 1))
        for group in self.optimizer.param_groups:
            lr = scheduled(group["peak_lr"], config.lr_end, config.lr_schedule, done)
            group["lr"] = rise * lr

    def _reduced(self, values: np.ndarray, how: str) -> np.ndarray:
        """Return the sum or maximum of an array over all ranks, in float64."""
        local = torch.from_numpy(values).to(self.accelerator.device)
        gathered = self.accelerator.gather(local.unsqueeze(0))
        return (gathered.amax(0) if how == "max" else gathered.sum(0)).cpu().numpy()

    def _over_ranks(self, value: float, how: str) -> float:
        """Return the mean or maximum of a number over all ranks."""
        local = torch.tensor([float(value)], device=self.accelerator.device)
        gathered = self.accelerator.gather(local)
        return float(gathered.max() if how == "max" else gathered.mean())
