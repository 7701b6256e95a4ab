"""A training run: what is done in each of its steps, on every rank."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from tqdm import tqdm
from transformers import PreTrainedModel

from evaluation import report
from evaluation.html import leave_report
from evaluation.play import (
    Records,
    model_policies,
    play_suites,
    read_records,
    summarize_records,
    write_records,
)
from evaluation.suites import TaskConfig
from gym_command.checkpoints import update_name
from gym_command.run_dir import RunDir, flat_settings
from gym_dialogue import Episode, rollout
from gym_dialogue.make import make_envs, with_prompt_file
from gym_policy import ModelPolicy, load_model
from gym_policy.compute import num_parameters
from gym_policy.models.adapter import save_adapter
from gym_policy.samplers.model_policy import make_sampler
from gym_policy.samplers.vllm import VllmSampler
from gym_policy.training.stop import StopRequest
from gym_policy.training.trained_wording import wording_note
from gym_policy.vision import features_stay
from rl.ahead import Ahead, Played
from rl.backend import load_dtype, zero_stage
from rl.build import Models, build_models
from rl.checkpoint import (
    optimizer_step,
    prune,
    read_state,
    restore_checkpoint,
    save_checkpoint,
)
from rl.config import RLConfig
from rl.experience import Experience, to_experience
from rl.learner import Learner
from rl.records import episode_statistics, log_dialogues, update_flops
from rl.resume import resume_from
from rl.tasks import TaskStream


@dataclass
class Collected:
    """The episodes of an update on this rank, as training sequences too, the seconds waited for
    them, and by how many updates the weights that sampled them are behind the learner's.
    """

    episodes: list[Episode]
    experiences: list[Experience]
    seconds: float
    behind: int = 0


class Run:
    """A training run between two updates. All ranks have one and call its methods together; the
    main process alone prints and writes.
    """

    def __init__(
        self,
        config: RLConfig,
        task: TaskConfig,
        accelerator: Accelerator,
        stop: StopRequest,
        models: Models,
        envs: Sequence[Any],
    ):
        self.config, self.task, self.accelerator, self.stop = config, task, accelerator, stop
        self.ahead = Ahead()
        self.envs, self.source, self.renderer = envs, models.source, models.renderer
        self.example = models.example
        self.model = models.actor_critic.model
        self.run_dir = RunDir(config.run_dir)
        self.is_main = accelerator.is_main_process
        self.learner = Learner(
            config,
            models.actor_critic,
            accelerator,
            models.renderer.tokenizer.pad_token_id,
            models.reference,
        )
        self.policy = ModelPolicy(
            self.model,
            self.renderer,
            temperature=config.temperature,
            max_new_tokens=config.max_new_tokens,
            batch_size=config.sampling_batch,
            sampler=make_sampler(
                config.sampler, self.model, config.engines, self.run_dir.weights_dir.resolve()
            ),
        )
        adapter = models.actor_critic.adapter
        if isinstance(self.policy.sampler, VllmSampler) and adapter is not None:
            self.policy.sampler.write_adapter = lambda folder: save_adapter(adapter, folder, None)
        self.keep_features = features_stay(self.model)
        self.num_parameters = num_parameters(self.model)
        self.update, self.flops = 0, 0.0  # the last update learned from, the compute until then
        self.metrics: dict[str, float] = {}  # of the last update
        self.saved_update: int | None = None
        self.initial_records: Records | None = None
        self.progress: Any = None

    @classmethod
    def open(
        cls, config: RLConfig, task: TaskConfig, accelerator: Accelerator, stop: StopRequest
    ) -> Run:
        """Start a run, or resume the one in its directory: load the models, put the directory in
        order, save and evaluate the initial checkpoint.
        """
        # Rank 0 alone reads all that is checked.
        checkpoint = resume_from(config) if config.resume and accelerator.is_main_process else None
        checkpoint = broadcast_object_list([checkpoint])[0]
        if checkpoint is None and config.resume and accelerator.is_main_process:
            print(f"Nothing to resume in {config.run_dir}: starting the run")
        envs = make_envs(with_prompt_file(config.env, config.prompt_file), config.num_envs)
        models = build_models(config, accelerator, envs[0], checkpoint)
        if accelerator.is_main_process and checkpoint is None:
            RunDir(config.run_dir).start(config)
            if note := wording_note(models.source, config.prompt_file):
                print(note)
        accelerator.wait_for_everyone()
        run = cls(config, task, accelerator, stop, models, envs)
        if checkpoint is not None:
            run._restore(checkpoint)
        run._open_trackers()
        run._announce(checkpoint)
        stop.immediately = False
        if checkpoint is None:
            run._save_checkpoint()
        if config.eval_ends:
            run.initial_records = run.evaluate(0)
        return run

    def updates(self) -> Iterator[int]:
        """Yield the updates that are left, counted from 1, under a progress bar."""
        self.progress = tqdm(
            range(self.update + 1, self.config.num_updates + 1),
            desc="updates",
            initial=self.update,
            total=self.config.num_updates,
            disable=not self.is_main,
        )
        yield from self.progress

    def collect(self, update: int) -> Collected:
        """Play the episodes of an update; if the run was asked to end, save and exit instead."""
        began = time.perf_counter()
        played = self.ahead.take()
        if played is None:
            with self.learner.sampling():
                self._send_weights()
                played = Played(self._play(update), self.update)
        if self.stop.agreed(self.accelerator):
            self._exit()
        experiences = to_experience(
            played.episodes, self.renderer, self.config.prefix_weight, self.keep_features
        )
        if self._samples_ahead(update):
            with self.learner.sampling():
                self._send_weights()
            self.ahead.start(self.update, lambda: self._play(update + 1))
        seconds = time.perf_counter() - began
        return Collected(played.episodes, experiences, seconds, self.update - played.version)

    def _play(self, update: int) -> list[Episode]:
        """Play the episodes of an update on this rank."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        group_size = self.learner.algorithm.group_size
        stream = TaskStream(self.config, group_size, update, rank, world, self.stop)
        return rollout(self.envs, self.policy, stream, stream.ended)

    def _samples_ahead(self, update: int) -> bool:
        """Return whether the next update's episodes are sampled while this one is learned: not
        where a checkpoint is due in between, since a run that resumes there has newer weights only.
        """
        config = self.config
        saves = config.save_every and update % config.save_every == 0
        return bool(config.overlap) and update < config.num_updates and not saves

    def learn(self, update: int, collected: Collected) -> dict[str, float]:
        """Learn from collected episodes; return the metrics of the update, over all ranks."""
        began = time.perf_counter()
        episodes, experiences = collected.episodes, collected.experiences
        metrics = episode_statistics(episodes, experiences, self.accelerator)
        metrics |= self.learner.learn(update, episodes, experiences)
        self.update = update
        self.flops += update_flops(
            self.num_parameters,
            metrics["tokens_in_dialogues"],
            self.config.epochs,
            self.learner.scoring_passes,
        )
        if self.config.overlap:
            metrics["versions_behind"] = float(collected.behind)
        return metrics | {
            "flops": self.flops,
            "seconds_collect": collected.seconds,
            "seconds_learn": time.perf_counter() - began,
        }

    def record(self, update: int, metrics: dict[str, float], collected: Collected) -> None:
        """Log an update, with the small evaluation that is due after it."""
        if self.config.eval_every and update % self.config.eval_every == 0:
            self.ahead.wait()  # which uses the same tokenizer
            metrics = metrics | self._monitor()
        self.metrics = metrics
        if self.is_main:
            self.run_dir.append_metrics(update, metrics)
            log_dialogues(self.run_dir, update, collected.episodes[: self.config.log_dialogues])
            self.progress.set_postfix(
                first=f"{metrics['first_reply']:.3f}",
                reward=f"{metrics['reward_per_turn']:+.2f}",
                kl=f"{metrics['approx_kl']:.4f}",
                entropy=f"{metrics['entropy']:.3f}",
            )
        self.accelerator.log(metrics, step=update)

    def save(self, update: int) -> None:
        """Save the checkpoint that is due after an update; exit if the run was asked to end."""
        if self.config.save_every and update % self.config.save_every == 0:
            self._save_checkpoint()
        if self.stop.agreed(self.accelerator):
            self._exit()

    def evaluate(self, update: int) -> Records:
        """Return the evaluation after an update (0: of the initial checkpoint). It is played once,
        however often the run is interrupted.
        """
        config, file = self.config, self.run_dir.evaluation(update)
        records = read_records(file, self.task.suites, config.eval)
        if records is not None:
            return records
        if self.stop.agreed(self.accelerator):
            self._exit()
        self.stop.immediately = True  # what it evaluates is saved
        with self.learner.sampling():
            records = play_suites(
                model_policies(self._model_after(update), self.renderer, config.eval),
                self.task.suites,
                config.eval,
                f"evaluate {update_name(update)}",
                prompt_file=config.prompt_file,
            )
        self.stop.immediately = False
        if self.is_main:
            write_records(file, records)
        return records

    def finish(self) -> Path:
        """Save and evaluate the last checkpoint and write the report; return the directory."""
        self._save_checkpoint()
        if self.initial_records is not None:
            results = {
                update_name(0): self.initial_records,
                update_name(self.update): self.evaluate(self.update),
            }
            if self.is_main:
                verify_iter = self.config.eval.verify_iter
                report.write(self.run_dir.path, results, self.task.suites, verify_iter)
        if self.is_main:
            self._remove_sent_weights()
            print(f"\nRun directory: {self.run_dir}")
            leave_report(self.run_dir.path)
        self.accelerator.end_training()
        return self.run_dir.path

    def _send_weights(self) -> None:
        """Have the servers sample with the weights of the last update, if servers do."""
        if isinstance(self.policy.sampler, VllmSampler):
            self.policy.sampler.update_together(str(self.update), [self.example.token_ids])

    def _remove_sent_weights(self) -> None:
        """Remove what servers have read, if servers sample; a resumed run sends its own."""
        if isinstance(self.policy.sampler, VllmSampler):
            self.policy.sampler.close()

    def _model_after(self, update: int) -> PreTrainedModel:
        """Return the model after an update: the one that is trained, or that of the checkpoint for
        a run that is past the update and has lost its evaluation.
        """
        if update == self.update:
            return self.model
        path, config = str(self.run_dir.checkpoint(update)), self.config
        model = load_model(path, load_dtype(config), config.trust_remote_code)
        return model.to(self.accelerator.device)

    def _restore(self, checkpoint: Path) -> None:
        """Take up the training state of a checkpoint, and remove what the run left after it."""
        learner = self.learner
        restore_checkpoint(checkpoint, self.accelerator, learner.actor_critic, learner.optimizer)
        state = read_state(checkpoint)
        self.update, self.flops = state["update"], state["flops"]
        self.saved_update = self.update
        if self.is_main:
            self.run_dir.cut_after(self.update)
        self.accelerator.wait_for_everyone()

    def _save_checkpoint(self) -> None:
        """Save what was learned up to the last update, unless it is saved already."""
        if self.saved_update == self.update:
            return
        state = {
            "update": self.update,
            "flops": self.flops,
            "optimizer_step": optimizer_step(self.learner.optimizer),
            "score": self.metrics.get(self.config.best_by),
        }
        save_checkpoint(
            self.run_dir.path,
            state,
            self.accelerator,
            self.learner.actor_critic,
            self.learner.optimizer,
            self.renderer,
        )
        self.saved_update = self.update
        if self.is_main:
            prune(self.run_dir.path, self.config.keep_last, self.config.keep_states)

    def _exit(self) -> None:
        """Save and end the process, with the exit code of the signal."""
        self.ahead.wait()
        self._save_checkpoint()
        if self.is_main:
            self._remove_sent_weights()
            print(f"\nInterrupted: saved after update {self.update}. Resume with --resume.")
        self.accelerator.wait_for_everyone()  # a launcher may end what is left after the first
        self.accelerator.end_training()
        raise SystemExit(self.stop.exit_code)

    def _monitor(self) -> dict[str, float]:
        """Play the small evaluation for the curve: first-reply success by suite and decoding."""
        config = self.config.monitor
        with self.learner.sampling():
            records = play_suites(
                model_policies(self.model, self.renderer, config),
                self.task.suites,
                config,
                show_progress=False,
                prompt_file=self.config.prompt_file,
            )
        return {
            f"eval/{suite}/{decoding}": values["metrics"]["first_reply"]["value"]
            for decoding, suites in summarize_records(records, config.verify_iter).items()
            for suite, values in suites.items()
        }

    def _open_trackers(self) -> None:
        """Open TensorBoard, or what else the configuration names; a resumed run goes on there."""
        config, update = self.config, self.update
        self.accelerator.init_trackers(
            f"rl-{config.task}" if not Path(config.task).suffix else "rl",
            config={key: str(value) for key, value in flat_settings(asdict(config)).items()},
            init_kwargs={
                "tensorboard": {"purge_step": update + 1} if update else {},
                "wandb": {"name": self.run_dir.path.name, "dir": str(self.run_dir)},
            },
        )

    def _announce(self, checkpoint: Path | None) -> None:
        """Print what is trained, on what, and where it goes."""
        if not self.is_main:
            return
        config, accelerator = self.config, self.accelerator
        trained = num_parameters(self.model, trained_only=True)
        stage = f" under ZeRO-{zero_stage(accelerator)}" if zero_stage(accelerator) else ""
        print(
            f"{config.algorithm.upper()} from {self.source}: {self.num_parameters / 1e6:.2f} M "
            f"parameters, {trained / 1e6:.2f} M of them trained, {accelerator.num_processes} x "
            f"{accelerator.device.type}{stage}, {config.num_updates} updates of at least "
            f"{config.turns_per_update} turns a rank; run directory {self.run_dir}"
        )
        if checkpoint is not None:
            print(f"Resuming from {checkpoint}")
