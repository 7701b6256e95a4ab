"""transformers.Trainer on dialogues with images, with a learning rate for each part and compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from transformers import EvalPrediction, PreTrainedModel, Trainer
from transformers.trainer import TRAINER_STATE_NAME

from gym_policy.compute import LEARNED
from gym_policy.parts import Part, parameter_groups
from gym_policy.vision import Images, image_inputs
from sft.loss import dft_loss
from sft.run_files import RunFiles


class WithImages(nn.Module):
    """A model that is trained on dialogues with images: what they become is computed within the
    forward pass, so that gradients reach the vision part; and so is the loss.
    """

    def __init__(self, model: PreTrainedModel, loss: Literal["nll", "dft"] = "nll"):
        super().__init__()
        self.model, self.config, self.loss = model, model.config, loss

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        images: Images | None = None,
        **kwargs: Any,
    ) -> Any:
        inputs = image_inputs(self.model, input_ids, images)
        if self.loss == "dft" and self.training:
            outputs = self.model(input_ids=input_ids, use_cache=False, **inputs)
            outputs.loss = dft_loss(outputs.logits, labels, kwargs.get("num_items_in_batch"))
            return outputs
        return self.model(input_ids=input_ids, labels=labels, use_cache=False, **inputs, **kwargs)


class SFTTrainer(Trainer):
    """Trainer with learning rates by part, which logs compute and saves as `files` do."""

    part_lr: dict[Part, float]
    files: RunFiles
    tokens_after: np.ndarray
    """Tokens of the dialogues that all ranks have learned from after 0, 1, ... steps."""
    num_parameters: int
    is_finite: torch.Tensor | None = None
    """Whether every loss on this rank was a finite number, (1,)."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        now = loss.isfinite().reshape(1)
        self.is_finite = now if self.is_finite is None else self.is_finite & now
        return loss

    def spent(self) -> dict[str, float]:
        """Return tokens and floating-point operations so far (`gym_policy.compute`)."""
        tokens = int(self.tokens_after[self.state.global_step])
        return {"tokens": tokens, "flops": float(LEARNED * self.num_parameters * tokens)}

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        logs.update(self.spent())
        super().log(logs, *args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save a checkpoint of the run in the place of Trainer's own."""
        self.files.save(self.state, with_state=True)

    def save_training(self, directory: Path) -> None:
        """Write what, beside the weights, a run needs to go on. All ranks call it together."""
        self._save_optimizer_and_scheduler(str(directory))
        self._save_scaler(str(directory))
        self._save_rng_state(str(directory))
        if self.args.should_save:
            self.state.save_to_json(str(directory / TRAINER_STATE_NAME))

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the model was loaded from the run's checkpoint."""

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        if self.optimizer is None and self.part_lr:
            model = self.model
            assert isinstance(model, torch.nn.Module)
            named = list(model.named_parameters())
            decayed = set(self.get_decay_parameter_names(model))
            kinds = [
                (self.args.weight_decay, [pair for pair in named if pair[0] in decayed]),
                (0.0, [pair for pair in named if pair[0] not in decayed]),
            ]
            self.optimizer = torch.optim.AdamW(
                [
                    group | {"weight_decay": decay}
                    for decay, pairs in kinds
                    for group in parameter_groups(pairs, self.args.learning_rate, self.part_lr)
                ],
                betas=(self.args.adam_beta1, self.args.adam_beta2),
                eps=self.args.adam_epsilon,
            )
        return super().create_optimizer(*args, **kwargs)


def most_likely(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """Return the most likely token at each place (B, T) of logits (B, T, V), all that is kept."""
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(-1)


def token_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Return the share of learned tokens that are the most likely, given the true ones before."""
    guesses = np.asarray(prediction.predictions)[:, :-1]
    labels = np.asarray(prediction.label_ids)[:, 1:]
    learned = labels != -100
    return {"token_accuracy": float((guesses == labels)[learned].mean())}
