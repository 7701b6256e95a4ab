"""Trains a policy from a verifier: collect -> advantages -> update -> log, evaluate, save.

To read one step: `train` here, then gym_dialogue/rollout.py, gym_policy/sampler.py, rl/ppo.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from tqdm import tqdm

from evaluation import report
from evaluation.play import model_policies, play_suites, summarize_records
from evaluation.suites import TaskConfig, load_task
from gym_dialogue import Episode, Task, rollout
from gym_dialogue.command import append_json, make_envs, run_command, start_run
from gym_policy import ModelPolicy, Renderer, load_model, load_tokenizer
from gym_policy.load import saved_checkpoints
from rl.actor_critic import ActorCritic, check_linear_head
from rl.checkpoint import save_checkpoint
from rl.config import Config, check_config
from rl.experience import Experience, to_experience
from rl.learner import Learner

_TRAIN_STREAM = 0x7EA1  # tells training seeds from evaluation seeds


class TaskStream:
    """The episodes of one update: whole groups, until `num_steps` turns are certain.

    Each is seeded by (seed, update, index), and ranks take indices in turn, so no two episodes of
    a run share a stream and an update does not depend on those before it.
    """

    def __init__(self, config: Config, group_size: int, update: int, rank: int, world: int):
        self.config, self.group_size, self.update = config, group_size, update
        self.rank, self.world = rank, world
        self.played_turns = 0  # of episodes that have ended
        self.in_play = 0

    def __iter__(self) -> Iterator[Task]:
        group = self.rank
        while self.played_turns + self.in_play < self.config.num_steps:
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


def episode_stats(
    episodes: list[Episode], experiences: list[Experience], accelerator: Accelerator
) -> dict[str, float]:
    """What was played, over all ranks: success, reward, lengths, outcomes."""
    turns = [turn for episode in episodes for turn in episode.turns]
    firsts = [
        episode.turns[episode.turns_of(d)[0]].is_right
        for episode in episodes
        for d in range(len(episode.dialogues))
        if episode.turns_of(d)
    ]
    sums = torch.tensor(
        [
            len(episodes),
            len(turns),
            sum(episode.is_success for episode in episodes),
            len(firsts),
            sum(firsts),
            sum(turn.reward for turn in turns),
            sum(len(turn.reply.token_ids) for turn in turns),
            sum(len(experience.token_ids) for experience in experiences),
        ],
        dtype=torch.float32,
        device=accelerator.device,
    )
    sums = accelerator.reduce(sums, "sum").tolist()
    count, played, won, positions, right, reward, tokens, in_dialogues = sums
    return {
        "episodes": count,
        "turns": played,
        "success": won / count,
        "first_reply": right / positions,
        "reward_per_turn": reward / played,
        "return": reward / count,
        "reply_tokens": tokens / played,
        "tokens_sampled": tokens,
        "tokens_in_dialogues": in_dialogues,
    }


def update_flops(parameters: int, dialogue_tokens: float, epochs: int) -> float:
    """Compute of one update as the paper counts it, 2 N D_buffer + 6 N D_RL: N parameters, D_buffer
    tokens of the collected dialogues (prompts and replies), D_RL the same in every epoch.
    """
    return parameters * dialogue_tokens * (2 + 6 * epochs)


def train(config: Config) -> Path:
    """Run a whole training; returns its directory."""
    check_config(config)
    task = load_task(config.task)
    start = saved_checkpoints(config.model)[-1]
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        log_with=config.trackers or None,
        project_dir=config.run_dir,
    )
    is_main = accelerator.is_main_process
    envs = make_envs(config.env, config.num_envs)
    tokenizer = load_tokenizer(start)
    model = load_model(start, config.dtype).to(accelerator.device)
    check_linear_head(model)
    if is_main:
        start_run(config.run_dir, config)
    accelerator.wait_for_everyone()
    run_dir = Path(config.run_dir)
    set_seed(config.seed)  # the same initial value head on every rank
    accelerator.init_trackers("tensorboard")

    renderer = Renderer(tokenizer)
    policy = ModelPolicy(
        model,
        renderer,
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.sampling_batch,
    )
    actor_critic = ActorCritic(
        model, config.temperature, tuple(config.ppo.value_hidden), config.ppo.value_detach
    )
    actor_critic.load_value_head(start)
    parameters = sum(p.numel() for p in model.parameters())
    if is_main:
        print(
            f"{config.algorithm.upper()} from {start}: {parameters / 1e6:.2f} M parameters, "
            f"{accelerator.num_processes} x {accelerator.device.type}, {config.num_updates} "
            f"updates of at least {config.num_steps} turns a rank; run directory {run_dir}"
        )
    learner = Learner(config, actor_critic, accelerator, tokenizer.pad_token_id)
    flops = 0.0

    def save(update: int) -> None:
        save_checkpoint(run_dir, update, accelerator, learner.actor_critic, tokenizer)

    results = {}

    def evaluate(label: str) -> None:
        policies = model_policies(model, renderer, config.eval)
        results[label] = play_suites(policies, task.suites, config.eval, f"evaluate {label}")

    save(0)
    evaluate("update-000000")
    progress = tqdm(range(1, config.num_updates + 1), desc="updates", disable=not is_main)
    for update in progress:
        began = time.perf_counter()
        stream = TaskStream(
            config,
            learner.algorithm.group_size,
            update,
            accelerator.process_index,
            accelerator.num_processes,
        )
        episodes = rollout(envs, policy, stream, stream.ended)
        experiences = to_experience(episodes, renderer)
        collected = time.perf_counter()
        metrics = episode_stats(episodes, experiences, accelerator)
        metrics |= learner.learn(update, episodes, experiences)
        ended = time.perf_counter()
        flops += update_flops(parameters, metrics["tokens_in_dialogues"], config.epochs)
        metrics |= {
            "flops": flops,
            "seconds_collect": collected - began,
            "seconds_learn": ended - collected,
        }
        if config.save_every and update % config.save_every == 0 and update < config.num_updates:
            save(update)
        if config.eval_every and update % config.eval_every == 0:
            metrics |= monitor(model, renderer, task, config)
        if is_main:
            append_json(run_dir / "metrics.jsonl", {"update": update} | metrics)
            log_dialogues(run_dir, update, episodes[: config.log_dialogues])
            progress.set_postfix(
                first=f"{metrics['first_reply']:.3f}",
                reward=f"{metrics['reward_per_turn']:+.2f}",
                kl=f"{metrics['kl']:.4f}",
                entropy=f"{metrics['entropy']:.3f}",
            )
        accelerator.log(metrics, step=update)
    save(config.num_updates)
    last = f"update-{config.num_updates:06d}"
    evaluate(last)
    if is_main:
        report.write(run_dir, results, task.suites, config.eval.verify_iter)
        print(f"\nRun directory: {run_dir}")
    accelerator.end_training()
    return run_dir


def monitor(model: Any, renderer: Renderer, task: TaskConfig, config: Config) -> dict[str, float]:
    """A small evaluation for the training curve: first-reply success by suite and decoding."""
    policies = model_policies(model, renderer, config.monitor)
    records = play_suites(policies, task.suites, config.monitor, show_progress=False)
    return {
        f"eval/{suite}/{decoding}": values["metrics"]["first_reply"]["value"]
        for decoding, suites in summarize_records(records, config.monitor.verify_iter).items()
        for suite, values in suites.items()
    }


def log_dialogues(run_dir: Path, update: int, episodes: list[Episode]) -> None:
    """Append sampled dialogues, with the reward and outcome of each turn, to dialogues.jsonl."""
    with open(run_dir / "dialogues.jsonl", "a", encoding="utf-8") as file:
        for episode in episodes:
            record = {
                "update": update,
                "puzzle": episode.puzzle,
                "is_success": episode.is_success,
                "dialogues": [dialogue.to_json() for dialogue in episode.dialogues],
                "rewards": [turn.reward for turn in episode.turns],
                "outcomes": [turn.outcome for turn in episode.turns],
            }
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    run_command(train, Config)
