"""Trains a model on dialogues."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments, set_seed

from gym_command.run_dir import RunDir
from gym_dialogue import InputError, Message
from gym_policy import Renderer
from gym_policy.compute import num_parameters
from gym_policy.cross_attention import attends_to_images
from gym_policy.distributed import is_partitioned, runs_on_cpu, with_deepspeed
from gym_policy.limits import check_sequence
from gym_policy.training.freezing import freeze_unreached
from gym_policy.training.stop import StopRequest
from sft.config import SFTConfig
from sft.data import DialogueItems, PadRight, TrainingOrder, hold_back
from sft.resume import Saved
from sft.run_files import RunFiles
from sft.trainer import SFTTrainer, WithImages, most_likely, token_accuracy


def fit(
    model: PreTrainedModel,
    renderer: Renderer,
    dialogues: Sequence[Sequence[Message]],
    config: SFTConfig,
    run_dir: Path,
    callbacks: Sequence[TrainerCallback] = (),
    saved: Saved | None = None,
    stop: StopRequest | None = None,
) -> int:
    """Train a model in place and leave metrics, TensorBoard log and checkpoints in `run_dir`; from
    what a run has `saved`, or anew. Returns the last step, an earlier one where `stop` asked to end
    or a callback ended the training.
    """
    dialogues, kept_back = hold_back(dialogues, config.validation, config.seed)
    items = DialogueItems(dialogues, renderer, config.learns_prompts)
    if not is_partitioned(model):
        model.to(PartialState().device)
    for number, rendered in enumerate(items.rendered):
        of_image = int(items.num_tokens[number]) - len(rendered.token_ids)
        what = f"dialogue {number + 1} to learn from"
        check_sequence(model, rendered.token_ids, what, of_image=of_image)
    example = items[next((i for i, has in enumerate(items.has_image) if has), 0)]["rendered"]
    freeze_unreached(model, example)
    is_mixed = any(items.has_image) and not all(items.has_image)
    with_blanks = is_mixed and with_deepspeed()
    if with_blanks and not attends_to_images(model):
        raise InputError(
            "DeepSpeed: this kind of model takes dialogues with and without images in separate "
            "runs only; give one kind, or train without DeepSpeed"
        )
    set_seed(config.seed)
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(RunDir(run_dir).tensorboard_dir)
    arguments = training_arguments(config, run_dir, bool(kept_back), saved is None, is_mixed)
    num_batches = config.num_steps * arguments.world_size
    # Batches of text in one window cost about the same; those with images do not.
    together = arguments.world_size if any(items.has_image) else 1
    dataset = TrainingOrder(items, config.batch_size, num_batches, config.seed, together)
    files = RunFiles(run_dir, model, renderer, config.save_every, stop)
    trainer = SFTTrainer(
        model=WithImages(model, config.loss),
        args=arguments,
        train_dataset=dataset,
        eval_dataset=DialogueItems(kept_back, renderer) if kept_back else None,
        preprocess_logits_for_metrics=most_likely,
        compute_metrics=token_accuracy,
        data_collator=PadRight(
            renderer.tokenizer.pad_token_id, example.processed_image if with_blanks else None
        ),
        callbacks=[files, *callbacks],
    )
    files.trainer, trainer.files, trainer.part_lr = trainer, files, config.part_lr
    of_steps = items.num_tokens[dataset.order].reshape(config.num_steps, -1).sum(1)
    trainer.tokens_after = np.concatenate([[0], of_steps.cumsum()])
    trainer.num_parameters = num_parameters(model)
    trainer.train(resume_from_checkpoint=None if saved is None else str(saved.state))
    return trainer.state.global_step


def training_arguments(
    config: SFTConfig, run_dir: Path, evaluates: bool, starts: bool, is_mixed: bool
) -> TrainingArguments:
    """Return Trainer's settings. `evaluates`: some dialogues are held back; `starts`: the run does
    not resume; `is_mixed`: some dialogues have an image and some have none.
    """
    micro = config.microbatch_size or config.batch_size
    return TrainingArguments(
        output_dir=str(run_dir),
        max_steps=config.num_steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=config.batch_size // micro,
        learning_rate=config.lr,
        lr_scheduler_type=config.lr_schedule,
        warmup_steps=math.ceil(config.warmup * config.num_steps),
        weight_decay=config.weight_decay,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        bf16=config.dtype == "bfloat16",
        train_sampling_strategy="sequential",  # the data set is in the order to train in
        seed=config.seed,
        use_cpu=runs_on_cpu(),
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        save_strategy="no",  # RunFiles asks for it
        per_device_eval_batch_size=micro,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=config.save_every or config.num_steps,
        eval_on_start=evaluates and starts,
        logging_nan_inf_filter=False,
        logging_steps=max(1, config.num_steps // 50),
        report_to=["tensorboard"],
        ddp_find_unused_parameters=is_mixed,  # a batch may have no image
        disable_tqdm=False,
    )
