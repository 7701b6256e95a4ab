"""Writes what a fine-tuning leaves: metrics, and checkpoints with Trainer's state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, TrainerCallback

from gym_command.checkpoints import TRAINING_DIR
from gym_command.run_dir import RunDir
from gym_dialogue import InputError
from gym_policy import Renderer
from gym_policy.distributed import whole_weights
from gym_policy.limits import not_numbers
from gym_policy.models.load import save_renderer
from gym_policy.training.checkpoint import begin, publish, writing
from gym_policy.training.stop import StopRequest
from sft.resume import remove_states, write_state

DIVERGED = (
    "training diverged: the loss or a weight is not a finite number; lower lr, or max_grad_norm, "
    "and start again from a saved checkpoint"
)


class RunFiles(TrainerCallback):
    """Writes metrics.jsonl and the checkpoints, in the layout that every command here reads; and
    has Trainer save its state with them. A request to end is met after the step under way.
    """

    trainer: Any  # an SFTTrainer, which imports this

    def __init__(
        self,
        run_dir: Path,
        model: PreTrainedModel,
        renderer: Renderer,
        save_every: int,
        stop: StopRequest | None,
    ):
        self.run_dir, self.model, self.renderer = run_dir, model, renderer
        self.save_every, self.stop = save_every, stop
        self.leaves = False  # before the last step

    def save(self, state: Any, with_state: bool) -> None:
        """Write the checkpoint of a step; `with_state` of the training, from which it goes on."""
        final = RunDir(self.run_dir).checkpoint(state.global_step)
        is_main = state.is_world_process_zero
        with writing(final) as partial:
            if is_main:
                begin(partial)
            with whole_weights(self.trainer.model_wrapped):
                if not_numbers(self.model) is not None:
                    raise InputError(DIVERGED)
                if is_main:
                    self.model.save_pretrained(partial)
                    save_renderer(self.renderer, partial)
            self.trainer.accelerator.wait_for_everyone()
            if with_state:
                self.trainer.save_training(partial / TRAINING_DIR)
            self.trainer.accelerator.wait_for_everyone()
            if is_main:
                if with_state:
                    write_state(partial, state.global_step)
                publish(partial, final)
        if is_main and with_state:
            remove_states(self.run_dir)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self.save(state, with_state=False)
            self._append(state, self.trainer.spent())
        if self.stop is not None:
            self.stop.immediately = False

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        accelerator = self.trainer.accelerator
        if not bool(accelerator.gather(self.trainer.is_finite).all()):  # every rank says so
            raise InputError(DIVERGED)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        is_last = step == state.max_steps
        if self.stop is not None and not is_last:
            self.leaves = self.stop.agreed(self.trainer.accelerator)
        if is_last or self.leaves or (self.save_every and step % self.save_every == 0):
            if is_last:
                self.save(state, with_state=False)
            control.should_log = True
            control.should_save = not is_last  # by the trainer, after what it logs and evaluates
        control.should_training_stop |= self.leaves

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any
    ) -> None:
        if logs and not (self.leaves and "train_loss" in logs):  # a summary of a part
            self._append(state, logs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and not self.leaves:
            remove_states(self.run_dir, keep=0)

    def _append(self, state: Any, logs: dict[str, Any]) -> None:
        if state.is_world_process_zero:
            RunDir(self.run_dir).append_metrics(state.global_step, logs)
