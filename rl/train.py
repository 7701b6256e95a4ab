"""Trains a policy from a verifier: collect -> advantages -> update -> log, evaluate, save.

To read one step: `train` here, then gym_dialogue/rollout.py,
gym_policy/samplers/model_policy.py, rl/ppo.py.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from tqdm import tqdm

from evaluation import report
from evaluation.html import leave_report
from evaluation.play import (
    Records,
    model_policies,
    play_suites,
    read_records,
    summarize_records,
)
from evaluation.suites import TaskConfig, load_task, playable
from gym_command.command import run_command
from gym_command.files import append_json, write_atomically
from gym_command.lock import sole_writer
from gym_command.run_dir import RunDir, flat_settings, saved_checkpoints
from gym_dialogue import Episode, InputError, Message, Task, rollout, shows_images
from gym_dialogue.images import Image, save_image
from gym_dialogue.make import make_envs, with_prompt_file
from gym_dialogue.messages import messages_to_json
from gym_policy import ModelPolicy, Renderer, load_model, load_renderer
from gym_policy.compute import LEARNED, SAMPLED, num_parameters
from gym_policy.distributed import whole_weights
from gym_policy.limits import check_sequence
from gym_policy.models.adapter import add_adapter, base_of, check_base, fingerprint, is_adapted
from gym_policy.parts import check_parts, freeze_parts, part_of
from gym_policy.renderer import Rendered
from gym_policy.training.freezing import check_linear_head, freeze_unreached
from gym_policy.training.stop import StopRequest
from gym_policy.training.trained_wording import wording_note
from gym_policy.vision import checkpoint_activations
from rl.actor_critic import ActorCritic
from rl.backend import check_stage, load_dtype, make_accelerator, zero_stage
from rl.checkpoint import (
    optimizer_step,
    prune,
    read_state,
    restore_checkpoint,
    restore_trained_adapter,
    save_checkpoint,
)
from rl.config import Config, check_config
from rl.experience import Experience, to_experience
from rl.learner import Learner
from rl.resume import resume_from

_TRAIN_STREAM = 0x7EA1  # tells training seeds from evaluation seeds


class TaskStream:
    """The episodes of one update: whole groups, until `num_steps` turns are certain.

    Each is seeded by (seed, update, index), and ranks take indices in turn, so no two episodes of
    a run share a stream and an update does not depend on those before it.
    """

    def __init__(
        self,
        config: Config,
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
        while self.played_turns + self.in_play < self.config.num_steps:
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


def episode_stats(
    episodes: list[Episode], experiences: list[Experience], accelerator: Accelerator
) -> dict[str, float]:
    """What was played, over all ranks: success, reward, lengths, outcomes."""
    turns = [turn for episode in episodes for turn in episode.turns]
    first_turns = [
        episode.turns[episode.turns_of(d)[0]]
        for episode in episodes
        for d in range(len(episode.dialogues))
        if episode.turns_of(d)
    ]
    firsts = [turn.is_right for turn in first_turns]
    seen = [turn.recognized for turn in first_turns if turn.recognized is not None]
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
            len(seen),
            sum(seen),
        ],
        dtype=torch.float32,
        device=accelerator.device,
    )
    sums = accelerator.reduce(sums, "sum").tolist()
    count, played, won, positions, right, reward, tokens, in_dialogues, looked, seen_right = sums
    recognition = {"recognition": seen_right / looked} if looked else {}
    return recognition | {
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
    return parameters * dialogue_tokens * (SAMPLED + LEARNED * epochs)


def train(config: Config) -> Path:
    """Run a whole training, or go on with one; returns its directory."""
    check_config(config)
    if config.dry_run:
        from rl.memory import print_plan

        print_plan(config)
        if note := wording_note(config.model, config.prompt_file):
            print(note)
        return Path(config.run_dir)
    task = load_task(config.task)
    task.suites = playable(task.suites, config.prompt_file)
    measured = [f"eval/{suite.name}/{d}" for suite in task.suites for d in config.monitor.decoding]
    if config.best_by not in measured:
        raise InputError(f"best_by={config.best_by}: must be one of {', '.join(measured)}")
    with StopRequest() as stop:
        accelerator = make_accelerator(config)
        check_stage(config, zero_stage(accelerator))
        with sole_writer(config.run_dir, accelerator.is_main_process):
            return _train(config, task, accelerator, stop)


def _train(config: Config, task: TaskConfig, accelerator: Accelerator, stop: StopRequest) -> Path:
    is_main = accelerator.is_main_process
    run_dir = RunDir(config.run_dir)
    found = [resume_from(config) if config.resume and is_main else None]
    checkpoint = broadcast_object_list(found)[0]  # rank 0 alone reads all that it checks
    if checkpoint is None and config.resume and is_main:
        print(f"Nothing to resume in {config.run_dir}: starting the run")
    if checkpoint is None:
        start = saved_checkpoints(config.model)[-1]
    else:  # what the run itself has kept, wherever its start is now
        start = base_of(checkpoint) if config.lora.rank else str(checkpoint)
    envs = make_envs(with_prompt_file(config.env, config.prompt_file), config.num_envs)
    renderer = load_renderer(
        str(checkpoint or start), config.chat_template_kwargs, config.trust_remote_code
    )
    example = first_prompt(envs[0], renderer, start)
    set_seed(config.seed)  # the same initial value head and adapter on every rank
    actor_critic = make_actor_critic(config, start, accelerator, example, checkpoint)
    frozen_start = None
    if config.kl_coef > 0 and not config.lora.rank:
        # The start that the run saved, which is there however long the run goes on.
        path = run_dir.checkpoint(0) if checkpoint else start
        frozen_start = make_actor_critic(config, str(path), accelerator, example)
        frozen_start.requires_grad_(False)
    if is_main and checkpoint is None:
        run_dir.start(config)
        if note := wording_note(start, config.prompt_file):
            print(note)
    accelerator.wait_for_everyone()
    if checkpoint is not None:
        restore_trained_adapter(actor_critic, checkpoint)
    actor_critic.load_value_head(checkpoint or start)
    pad_token_id = renderer.tokenizer.pad_token_id
    learner = Learner(config, actor_critic, accelerator, pad_token_id, frozen_start)
    done, flops = 0, 0.0
    if checkpoint is not None:
        restore_checkpoint(checkpoint, accelerator, learner.actor_critic, learner.optimizer)
        state = read_state(checkpoint)
        done, flops = state["update"], state["flops"]
        if is_main:
            run_dir.cut_after(done)
        accelerator.wait_for_everyone()
    accelerator.init_trackers(
        f"rl-{config.task}" if not Path(config.task).suffix else "rl",
        config={key: str(value) for key, value in flat_settings(asdict(config)).items()},
        init_kwargs={
            "tensorboard": {"purge_step": done + 1} if done else {},
            "wandb": {"name": run_dir.path.name, "dir": str(run_dir)},
        },
    )

    model = actor_critic.model
    policy = ModelPolicy(
        model,
        renderer,
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.sampling_batch,
        sampler=config.sampler,
    )
    parameters, trained = num_parameters(model), num_parameters(model, trained_only=True)
    # What the vision tower makes of an image outlives an update if the tower does.
    keep_features = not any(
        p.requires_grad for name, p in model.named_parameters() if part_of(name) == "vision"
    )
    if is_main:
        stage = f" under ZeRO-{zero_stage(accelerator)}" if zero_stage(accelerator) else ""
        print(
            f"{config.algorithm.upper()} from {start}: {parameters / 1e6:.2f} M parameters, "
            f"{trained / 1e6:.2f} M of them trained, {accelerator.num_processes} x "
            f"{accelerator.device.type}{stage}, {config.num_updates} updates of at least "
            f"{config.num_steps} turns a rank; run directory {run_dir}"
        )
        if checkpoint is not None:
            print(f"Going on from {checkpoint}")
    saved = done if checkpoint is not None else None
    metrics: dict[str, float] = {}

    def save(update: int) -> None:
        nonlocal saved
        if saved == update:
            return
        state = {
            "update": update,
            "flops": flops,
            "optimizer_step": optimizer_step(learner.optimizer),
            "score": metrics.get(config.best_by),
        }
        save_checkpoint(
            run_dir, state, accelerator, learner.actor_critic, learner.optimizer, renderer
        )
        saved = update
        if is_main:
            prune(run_dir, config.keep_last, config.keep_states)

    def evaluate(update: int) -> Records:
        """The evaluation after an update, played once however often the run is interrupted."""
        label = f"update-{update:06d}"
        file = run_dir.evaluation(update)
        records = read_records(file, task.suites, config.eval)
        if records is not None:
            return records
        if stop.agreed(accelerator):
            leave(update)
        stop.immediately = True  # what it evaluates is saved
        with learner.sampling():
            policies = model_policies(model, renderer, config.eval)
            records = play_suites(
                policies,
                task.suites,
                config.eval,
                f"evaluate {label}",
                prompt_file=config.prompt_file,
            )
        stop.immediately = False
        if is_main:
            write_atomically(file, json.dumps(records))
        return records

    def leave(update: int) -> None:
        """Save and end the process, with the exit code of the signal."""
        save(update)
        if is_main:
            print(f"\nAsked to end: saved after update {update}; go on with --resume")
        accelerator.wait_for_everyone()  # a launcher may end what is left after the first
        accelerator.end_training()
        raise SystemExit(stop.exit_code)

    stop.immediately = False
    if checkpoint is None:  # else that of the run is there already, from before it learned
        save(0)
    first = evaluate(0) if config.eval_ends else None
    progress = tqdm(
        range(done + 1, config.num_updates + 1),
        desc="updates",
        initial=done,
        total=config.num_updates,
        disable=not is_main,
    )
    for update in progress:
        began = time.perf_counter()
        stream = TaskStream(
            config,
            learner.algorithm.group_size,
            update,
            accelerator.process_index,
            accelerator.num_processes,
            stop,
        )
        with learner.sampling():
            episodes = rollout(envs, policy, stream, stream.ended)
        if stop.agreed(accelerator):
            leave(update - 1)
        experiences = to_experience(episodes, renderer, config.prefix_weight, keep_features)
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
        if config.eval_every and update % config.eval_every == 0:
            with learner.sampling():
                metrics |= monitor(model, renderer, task, config)
        if is_main:
            run_dir.append_metrics(update, metrics)
            log_dialogues(run_dir, update, episodes[: config.log_dialogues])
            progress.set_postfix(
                first=f"{metrics['first_reply']:.3f}",
                reward=f"{metrics['reward_per_turn']:+.2f}",
                kl=f"{metrics['kl']:.4f}",
                entropy=f"{metrics['entropy']:.3f}",
            )
        accelerator.log(metrics, step=update)
        if config.save_every and update % config.save_every == 0:
            save(update)
        if stop.agreed(accelerator):
            leave(update)
        del episodes, experiences  # with their images, before the next are played
    save(config.num_updates)
    if first is not None:
        last = evaluate(config.num_updates)
        if is_main:
            results = {"update-000000": first, f"update-{config.num_updates:06d}": last}
            report.write(run_dir, results, task.suites, config.eval.verify_iter)
    if is_main:
        print(f"\nRun directory: {run_dir}")
        leave_report(run_dir)
    accelerator.end_training()
    return run_dir.path


def first_prompt(env: Any, renderer: Renderer, start: str) -> Rendered:
    """An example of what the environment shows. Raises InputError for images where the model reads
    text only.
    """
    if shows_images(env):
        renderer.require_images(f"environment {env.spec.id}", start)
    obs, _ = env.reset(seed=0)
    return renderer.render([Message("user", obs["text"], obs.get("image"))])


def make_actor_critic(
    config: Config,
    path: str,
    accelerator: Accelerator,
    example: Rendered,
    checkpoint: Path | None = None,
) -> ActorCritic:
    """The policy that is trained, on its device: all of it, or an adapter on it, and a critic.
    What an `example` of the dialogues does not pass through is frozen.

    Raises InputError where the model at `path` is not the one under the adapter of `checkpoint`.
    """
    model = load_model(path, load_dtype(config), config.trust_remote_code)
    check_sequence(model, example.token_ids, "a prompt", config.max_new_tokens)
    if is_adapted(model):
        raise InputError(
            f"model {path}: is an adapter on another model; merge the two first: "
            f"python -m gym_policy.models.merge {path} DIRECTORY"
        )
    model = model.to(accelerator.device)
    if config.gradient_checkpointing:
        checkpoint_activations(model)
    adapter, base_fingerprint = None, None
    if config.lora.rank:
        if checkpoint is not None:
            check_base(model, checkpoint)
        base_fingerprint = fingerprint(model)
        adapter = add_adapter(
            model,
            path,
            config.lora.rank,
            config.lora.alpha,
            config.lora.dropout,
            config.lora.targets,
            config.freeze,
        )
        model.to(accelerator.device)
    check_parts(model, config.freeze, config.part_lr)
    freeze_parts(model, config.freeze)
    with whole_weights(model):
        check_linear_head(model)
        freeze_unreached(model, example)
    return ActorCritic(
        model,
        config.temperature,
        tuple(config.ppo.value_hidden),
        config.ppo.value_detach,
        adapter,
        base_fingerprint,
    )


def monitor(model: Any, renderer: Renderer, task: TaskConfig, config: Config) -> dict[str, float]:
    """A small evaluation for the training curve: first-reply success by suite and decoding."""
    policies = model_policies(model, renderer, config.monitor)
    records = play_suites(
        policies,
        task.suites,
        config.monitor,
        show_progress=False,
        prompt_file=config.prompt_file,
    )
    return {
        f"eval/{suite}/{decoding}": values["metrics"]["first_reply"]["value"]
        for decoding, suites in summarize_records(records, config.monitor.verify_iter).items()
        for suite, values in suites.items()
    }


def log_dialogues(run_dir: RunDir, update: int, episodes: list[Episode]) -> None:
    """Append sampled dialogues, with the reward and outcome of each turn, to dialogues.jsonl. Their
    images go to the directory images.
    """
    numbers = itertools.count()

    def save(image: Image) -> str:
        file = run_dir.image(update, next(numbers))
        save_image(file, image)
        return str(file.relative_to(run_dir.path))

    records = [
        {
            "update": update,
            "puzzle": episode.puzzle,
            "is_success": episode.is_success,
            "dialogues": [messages_to_json(d.messages, save) for d in episode.dialogues],
            "rewards": [turn.reward for turn in episode.turns],
            "outcomes": [turn.outcome for turn in episode.turns],
        }
        for episode in episodes
    ]
    append_json(run_dir.dialogues_file, *records)


if __name__ == "__main__":
    run_command(train, Config)
