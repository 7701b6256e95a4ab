"""Supervised fine-tuning on oracle dialogues or a file of dialogues, by transformers.Trainer."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer import TRAINER_STATE_NAME

from gym_command.checkpoints import TRAINING_DIR
from gym_command.command import run_command
from gym_command.lock import sole_writer
from gym_command.ranges import (
    Count,
    Natural,
    NotNegative,
    Positive,
    Seed,
    Share,
    ShareBelowOne,
    check_ranges,
)
from gym_command.run_dir import RunDir, saved_checkpoints
from gym_dialogue import InputError, Message, shows_images
from gym_dialogue.data import read_dialogues
from gym_dialogue.make import Kwargs, make_envs, with_prompt_file
from gym_dialogue.released import require_released
from gym_policy import Renderer, load_model, load_renderer
from gym_policy.compute import LEARNED, num_parameters
from gym_policy.distributed import (
    is_partitioned,
    join_processes,
    runs_on_cpu,
    whole_weights,
    with_deepspeed,
)
from gym_policy.limits import check_sequence, not_numbers
from gym_policy.models.load import save_renderer
from gym_policy.parts import Part, check_parts, freeze_parts, parameter_groups
from gym_policy.training.checkpoint import begin, publish, writing
from gym_policy.training.freezing import freeze_unreached
from gym_policy.training.stop import StopRequest
from gym_policy.training.trained_wording import wording_note
from gym_policy.vision import (
    Images,
    attends_to_images,
    checkpoint_activations,
    image_inputs,
)
from sft.data import (
    DialogueItems,
    PadRight,
    SourceConfig,
    TrainingOrder,
    check_shares,
    hold_back,
    make_dialogues,
    write_jsonl,
)
from sft.loss import dft_loss
from sft.resume import Saved, remove_states, resume_from, write_state


@dataclass
class Config:
    """Fine-tune a language model on the replies of oracle dialogues."""

    model: str = ""
    """The start: a directory saved by save_pretrained, a run's directory, or a hub name."""
    run_dir: str = "runs/sft"
    """Where everything that the run leaves goes."""
    resume: bool = False
    """Whether to go on with the run in run_dir from its newest saved step, where it has one."""
    seed: Seed = 0
    """Decides the dialogues, their order and the minibatches."""
    task: str = "gp_l"
    """Which suites later evaluations of this run use."""
    sources: list[SourceConfig] = field(default_factory=lambda: [SourceConfig()])
    """What the oracle dialogues are made of."""
    num_dialogues: Count = 10000
    """How many are made."""
    data_file: str | None = None
    """A file of dialogues to learn from instead of making them: JSONL, or a JSON list in LLaVA form
    (`gym_dialogue.data`)."""
    image_folder: str | None = None
    """Where the images that a data_file names lie. None: beside it."""
    learns_prompts: bool = False
    """Whether loss falls on prompts too, as in pretraining: for models made from scratch."""
    validation: ShareBelowOne = 0.0
    """Share of the dialogues that is kept back. Loss and token accuracy on it (eval_loss, a mean
    over batches, and eval_token_accuracy) are measured at the start, with every checkpoint and at
    the end."""
    prompt_file: str | None = None
    """Wording of prompts and feedback, such as `python -m gym_dialogue.wording` makes: for the
    oracle dialogues, and for later evaluations of this run. None: the environment's own."""
    chat_template_kwargs: Kwargs | None = None
    """Variables of the model's chat template, such as {"enable_thinking": false}; for training, and
    for later evaluations of this run."""
    trust_remote_code: bool = False
    """Whether Python code that comes with the model is run. Without it, a model that needs such
    code is refused."""

    loss: Literal["nll", "dft"] = "nll"
    """Of a learned token: its negative log-likelihood, as in the paper, or that weighted by the
    token's own probability (DFT, arXiv 2508.05629). Evaluation measures nll."""
    num_steps: Count = 400
    """Optimizer steps."""
    batch_size: Count = 16
    """Dialogues per device and step. Paper: 16."""
    microbatch_size: Count | None = None
    """Dialogues in one forward and backward pass; gradients accumulate up to batch_size. None: all
    of them."""
    lr: Positive = 1e-6
    """Peak learning rate. Paper: 1e-6."""
    part_lr: dict[Part, Positive] = field(default_factory=dict)
    """Peak learning rate of parts of a model that sees, where it is another one: vision (the
    tower), projector, language."""
    freeze: list[Part] = field(default_factory=list)
    """Parts that are not trained: vision, projector, language."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """How it falls. Paper: cosine."""
    warmup: Share = 0.03
    """Share of the steps in which the learning rate rises. Paper: 0.03."""
    weight_decay: NotNegative = 0.0
    """Of AdamW."""
    adam_beta2: ShareBelowOne = 0.999
    """Of AdamW."""
    max_grad_norm: Positive = 1.0
    """Gradient norm that is clipped to."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What is computed in. Weights are kept in float32 all the same (autocast, or DeepSpeed)."""
    gradient_checkpointing: bool = False
    """Whether a backward pass computes each layer's activations again instead of keeping them."""
    save_every: Natural = 0
    """Steps between checkpoints, from the newest of which a run can go on; 0: at the end only. The
    start is always saved."""


_DIVERGED = (
    "training diverged: the loss or a weight is not a finite number; lower lr, or max_grad_norm, "
    "and start again from a saved checkpoint"
)


class _RunFiles(TrainerCallback):
    """Writes metrics.jsonl and the checkpoints, in the layout that every command here reads; and
    has Trainer save its state with them. A request to end is met after the step under way.
    """

    trainer: Trainer

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
                    raise InputError(_DIVERGED)
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
            raise InputError(_DIVERGED)

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


class _WithImages(nn.Module):
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


class _Trainer(Trainer):
    """Trainer with learning rates by part, which logs compute and saves as `files` do."""

    part_lr: dict[Part, float]
    files: _RunFiles
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
        """Tokens and floating-point operations so far, as `gym_policy.compute` counts them."""
        tokens = int(self.tokens_after[self.state.global_step])
        return {"tokens": tokens, "flops": float(LEARNED * self.num_parameters * tokens)}

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        logs.update(self.spent())
        super().log(logs, *args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """A checkpoint of the run in the place of Trainer's own."""
        self.files.save(self.state, with_state=True)

    def save_training(self, directory: Path) -> None:
        """Write what, beside the weights, a run needs to go on. All ranks call it together."""
        self._save_optimizer_and_scheduler(str(directory))
        self._save_scaler(str(directory))
        self._save_rng_state(str(directory))
        if self.args.should_save:
            self.state.save_to_json(str(directory / TRAINER_STATE_NAME))

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the model was loaded from the run's checkpoint."""

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        if self.optimizer is None and self.part_lr:
            named = list(self.model.named_parameters())
            decayed = set(self.get_decay_parameter_names(self.model))
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


def check_config(config: Config) -> None:
    """Raises InputError for values that describe no run."""
    if not config.model:
        raise InputError("model: name a start checkpoint with --model=DIRECTORY_OR_HUB_NAME")
    check_ranges(config)
    if config.microbatch_size is not None and config.batch_size % config.microbatch_size:
        raise InputError(
            f"microbatch_size={config.microbatch_size}: must divide batch_size={config.batch_size}"
        )
    if config.data_file is None:
        check_shares([source.share for source in config.sources])
    if config.image_folder is not None and config.data_file is None:
        raise InputError(f"image_folder={config.image_folder}: is of a data_file; name that too")
    for name in ("data_file", "prompt_file"):
        path = getattr(config, name)
        require_released(name, path)
        if path is not None and not Path(path).is_file():
            raise InputError(f"{name}={path}: no such file")


def train(config: Config) -> Path:
    """Run a whole training; returns its directory."""
    check_config(config)
    with StopRequest() as stop:
        state = join_processes()
        with sole_writer(config.run_dir, state.is_main_process):
            return _train(config, state, stop)


def _train(config: Config, state: PartialState, stop: StopRequest) -> Path:
    run_dir = Path(config.run_dir)
    found = [resume_from(config) if config.resume and state.is_main_process else None]
    saved = broadcast_object_list(found)[0]  # rank 0 alone puts the directory in order
    if saved is not None and saved.state is None:
        if state.is_main_process:
            print(f"The run in {run_dir} is finished: {saved.checkpoint}")
        state.destroy_process_group()
        return run_dir
    if saved is None and config.resume and state.is_main_process:
        print(f"Nothing to resume in {run_dir}: starting the run")
    start = saved_checkpoints(config.model)[-1] if saved is None else str(saved.checkpoint)
    renderer = load_renderer(start, config.chat_template_kwargs, config.trust_remote_code)
    model = load_start(config, start)
    dialogues = prepare_run(config, renderer, start, goes_on=saved is not None)
    note = wording_note(start, config.prompt_file)
    if saved is None and config.data_file is None and note and state.is_main_process:
        print(note)
    if saved is not None and state.is_main_process:
        print(f"Going on from {saved.checkpoint}")
    step = fit(model, renderer, dialogues, config, run_dir, saved=saved, stop=stop)
    is_whole = step == config.num_steps
    if state.is_main_process:
        if is_whole:
            print(f"\nRun directory: {run_dir}")
        else:
            print(f"\nAsked to end: saved after step {step}; go on with --resume")
    state.wait_for_everyone()  # a launcher may end what is left after the first
    state.destroy_process_group()
    if not is_whole:
        raise SystemExit(stop.exit_code)
    return run_dir


def load_start(config: Config, path: str) -> PreTrainedModel:
    """The model to train. Without DeepSpeed its weights are in float32, whatever is computed in."""
    dtype = config.dtype if with_deepspeed() else "float32"
    model = load_model(path, dtype, config.trust_remote_code)
    check_parts(model, config.freeze, config.part_lr)
    freeze_parts(model, config.freeze)
    if config.gradient_checkpointing:
        checkpoint_activations(model)
    return model


def prepare_run(
    config: Config,
    renderer: Renderer | None = None,
    start: str | None = None,
    goes_on: bool = False,
) -> list[list[Message]]:
    """Start the run's directory and return the dialogues to learn from: those of the data file, or
    oracle dialogues made now and kept as data.jsonl, with their images in the directory images. A
    run that goes on has both.
    Raises InputError, before anything is made, for images that the model of the
    checkpoint `start` cannot be shown.
    """
    state = join_processes()
    # What is given is looked at first, so that a fault in it leaves no directory behind.
    given = (
        None
        if config.data_file is None
        else list(read_dialogues(config.data_file, config.image_folder))
    )
    files = RunDir(config.run_dir)
    if goes_on:
        return list(read_dialogues(files.data_file)) if given is None else given
    sources = [
        replace(source, env=with_prompt_file(source.env, config.prompt_file))
        for source in config.sources
    ]
    if given is None or config.prompt_file is not None:
        for source in sources:
            (env,) = make_envs(source.env, 1)
            if renderer is not None and shows_images(env):
                renderer.require_images(f"environment {source.env.id}", start)
    if renderer is not None and any(m.image is not None for d in given or () for m in d):
        renderer.require_images(f"data file {config.data_file}", start)
    if state.is_main_process:
        files.start(config)
    state.wait_for_everyone()
    if given is not None:
        return given
    made = make_dialogues(sources, config.num_dialogues, config.seed, files.images_dir)
    if state.is_main_process:
        write_jsonl(files.data_file, made)
    state.wait_for_everyone()
    return list(read_dialogues(files.data_file))


def fit(
    model: PreTrainedModel,
    renderer: Renderer,
    dialogues: Sequence[Sequence[Message]],
    config: Config,
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
        check_sequence(model, rendered.token_ids, f"dialogue {number + 1} to learn from")
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
    micro = config.microbatch_size or config.batch_size
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run_dir / "tensorboard")
    arguments = TrainingArguments(
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
        save_strategy="no",  # _RunFiles asks for it
        per_device_eval_batch_size=micro,
        eval_strategy="steps" if kept_back else "no",
        eval_steps=config.save_every or config.num_steps,
        eval_on_start=bool(kept_back) and saved is None,
        logging_nan_inf_filter=False,
        logging_steps=max(1, config.num_steps // 50),
        report_to=["tensorboard"],
        ddp_find_unused_parameters=is_mixed,  # a batch may have no image
        disable_tqdm=False,
    )
    num_batches = config.num_steps * arguments.world_size
    # Batches of text in one window cost about the same; those with images do not.
    together = arguments.world_size if any(items.has_image) else 1
    dataset = TrainingOrder(items, config.batch_size, num_batches, config.seed, together)
    files = _RunFiles(run_dir, model, renderer, config.save_every, stop)
    trainer = _Trainer(
        model=_WithImages(model, config.loss),
        args=arguments,
        train_dataset=dataset,
        eval_dataset=DialogueItems(kept_back, renderer) if kept_back else None,
        preprocess_logits_for_metrics=_most_likely,
        compute_metrics=_token_accuracy,
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


def _most_likely(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """Logits (B, T, V) -> the most likely token at each place (B, T): all that is kept of them."""
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(-1)


def _token_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of the learned tokens that are the most likely ones, given all true tokens before."""
    guesses, labels = prediction.predictions[:, :-1], prediction.label_ids[:, 1:]
    learned = labels != -100
    return {"token_accuracy": float((guesses == labels)[learned].mean())}


if __name__ == "__main__":
    run_command(train, Config)
