"""The settings of supervised fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

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
from gym_dialogue import InputError
from gym_dialogue.make import Kwargs
from gym_dialogue.released import require_released
from gym_policy.parts import Part
from sft.data import SourceConfig, check_shares


@dataclass
class SFTConfig:
    """Fine-tune a language model on the replies of oracle dialogues."""

    DATA_STREAM: ClassVar[tuple[int, ...]] = (0x5F7D,)
    """Tells the dialogues of a fine-tuning from those of its initial checkpoint under one seed."""

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


def check_config(config: SFTConfig) -> None:
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
