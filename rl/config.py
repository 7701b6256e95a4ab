"""The configuration of a training run: every setting, its unit and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from accelerate.utils import LoggerType

from evaluation.play import EvalConfig, check_eval_config
from gym_command.ranges import (
    Count,
    Length,
    Natural,
    NotNegative,
    Positive,
    Range,
    Seed,
    Share,
    ShareBelowOne,
    Temperature,
    check_ranges,
)
from gym_dialogue import InputError
from gym_dialogue.make import EnvConfig, Kwargs
from gym_policy.parts import Part
from gym_policy.samplers.model_policy import SamplerName

RatioLevel = Literal["turn", "token"]


@dataclass
class PPOConfig:
    """PPO over turns, with a value head."""

    gamma: Share = 0.9
    """Discount per turn. Paper: 0.9."""
    lam: Share = 0.95
    """Lambda of GAE, over turns. Paper: 0.95."""
    clip: Share = 0.1
    """Clip range of the ratio. Paper: 0.1."""
    ratio: RatioLevel = "turn"
    """`turn`: one ratio per reply (the product over its tokens, as in the paper); `token`: one per
    token, each with its turn's advantage."""
    value_coef: NotNegative = 0.5
    """Weight of the value loss. Paper: 0.5."""
    value_clip: NotNegative = 0.0
    """How far a value may move from the collected one before its loss is clipped, in units of
    reward; 0 does not clip."""
    value_lr: Positive | None = None
    """Learning rate of the value head; None: that of the policy."""
    value_hidden: list[Count] = field(default_factory=lambda: [1024, 512])
    """Widths of the value head's hidden layers. Paper: 1024, 512."""
    value_warmup: Natural = 0
    """First updates, in which only the value loss is applied."""
    value_detach: bool = False
    """Whether the value loss stops at the value head instead of training the policy's body too."""
    entropy_coef: float = 0.0
    """Weight of the mean token entropy, a bonus. Paper: 0.01, but never applied in its code."""
    normalize: bool = True
    """Whether advantages are standardised over all turns of an update, on all ranks."""
    negative_weight: Share = 1.0
    """Weight on negative advantages; 1 in the paper. Below 1, learning leans on what worked: where
    replies are memorised one by one, pushing a wrong one down helps no other."""


@dataclass
class GRPOConfig:
    """GRPO: groups of episodes on the same puzzle, compared by their return; no value head."""

    group_size: Annotated[int, Range(2, 2**20)] = 8
    """Episodes on the same puzzle."""
    gamma: Share = 0.9
    """Discount per turn in an episode's return."""
    clip_low: Share = 0.2
    """How far below 1 the ratio may fall."""
    clip_high: Annotated[float, Range(0, 10)] = 0.2
    """How far above 1 the ratio may rise (0.28 in DAPO, arXiv 2503.14476)."""
    ratio: RatioLevel = "token"
    """As in ppo."""
    scale: bool = True
    """Whether a group's advantages are divided by its standard deviation."""
    negative_weight: Share = 1.0
    """As in ppo."""
    entropy_coef: float = 0.0
    """Weight of the mean token entropy, a bonus."""


@dataclass
class LoraSettings:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) in place of training all weights."""

    rank: Annotated[int, Range(0, 2**16)] = 0
    """Rank of the adapters; 0 trains all weights."""
    alpha: Positive = 32.0
    """Scale: an adapter's output is multiplied by alpha / rank."""
    dropout: ShareBelowOne = 0.0
    """Dropout on an adapter's input while learning. Log-probabilities recorded in sampling are
    without it, so the ratio to them is then noisy."""
    targets: list[str] = field(default_factory=lambda: ["all-linear"])
    """Names of the modules that get an adapter; all-linear: every linear layer but the head, those
    of the vision part included unless it is in `freeze`."""


@dataclass
class RLConfig:
    """Train a language model by reinforcement from a verifier."""

    OLD_KEYS: ClassVar[dict[str, str]] = {"num_steps": "turns_per_update"}

    model: str = ""
    """The initial checkpoint: a directory saved by save_pretrained, a run's directory, or a hub
    name."""
    run_dir: str = "runs/rl"
    """Where everything that the run leaves goes."""
    seed: Seed = 0
    """Decides everything: deals, sampling, minibatches, the value head's initial weights."""
    task: str = "gp_l"
    """Which suites it is evaluated on: a name such as gp_l, or a YAML file."""
    env: EnvConfig = field(default_factory=EnvConfig)
    """Where it learns."""
    prompt_file: str | None = None
    """Wording of prompts and feedback, such as `python -m gym_dialogue.wording` makes; used for
    training and evaluation alike. None: the environment's own."""
    chat_template_kwargs: Kwargs | None = None
    """Variables of the model's chat template, such as {"enable_thinking": false}; used for training
    and evaluation alike."""
    trust_remote_code: bool = False
    """Whether Python code that comes with the model is run. Without it, a model that needs such
    code is refused."""
    resume: bool = False
    """Continue the run in `run_dir` from its newest whole checkpoint, on any number of ranks; with
    none there, start it."""
    dry_run: bool = False
    """Print the resolved configuration and the memory that it needs, and stop."""

    algorithm: Literal["ppo", "grpo"] = "ppo"
    """The learner."""
    num_updates: Count = 20
    """Updates: collect episodes, then learn from them. Paper: 20 (15 on V-IRL)."""
    turns_per_update: Count = 256
    """Turns that an update collects at least, per rank. Episodes are always whole. Paper: 256."""
    num_envs: Length = 256
    """Episodes in play at a time, per rank; all of them share the sampling batch."""
    temperature: Temperature = 1.0
    """Of the distribution that is sampled from and learned. Paper: 0.2."""
    max_new_tokens: Length = 512
    """Tokens a reply may have. Paper: 512."""
    sampling_batch: Count = 512
    """Dialogues that go through the model together while sampling, per rank."""
    sampler: SamplerName = "cached"
    """What samples while it learns: cached keeps keys and values over the turns of an episode,
    cached_once within a turn only (half the memory); generate and static are transformers'
    `generate` with a growing or a fixed cache (compiled on a GPU); paged its continuous batching;
    vllm asks the servers in engines. The last three are for models of text."""
    engines: list[str] = field(default_factory=list)
    """Addresses of vLLM servers (scripts/serve.sh) for sampler=vllm. They read new weights from the
    run's directory, which they must see under the same path."""
    overlap: Annotated[int, Range(0, 1)] = 0
    """Updates by which sampling may run ahead, with sampler=vllm: at 1 the servers sample the next
    update's episodes, by the weights of the last one, while this one is learned. Log-probabilities
    are then recomputed and the loss is weighted by truncated importance. Where a checkpoint is due
    (save_every), the next update waits for it."""
    old_logprobs: Literal["auto", "sampled", "recomputed"] = "auto"
    """Log-probabilities that ratios start from: those recorded in sampling, or recomputed by the
    learner; auto: recomputed where the two differ by more than 0.02 nats a token in the mean over
    the longest dialogues."""
    importance_cap: Positive = 2.0
    """With recomputed ones, the loss of a token (or turn) is weighted by its probability under the
    learner's weights over that under the sampler, at most this: truncated importance sampling
    (Ionides 2008; for samplers of their own, Yao et al. 2025)."""

    epochs: Count = 4
    """Passes over the collected episodes. Paper: 4."""
    minibatch_size: Count = 32
    """Dialogues per optimizer step, per rank. Paper: 1 x 128 accumulated."""
    microbatch_size: Count = 32
    """Dialogues in one forward and backward pass; gradients accumulate up to a minibatch."""
    lr: Positive = 1e-6
    """Learning rate. Paper: 1e-6 (1e-7 on V-IRL-VL)."""
    part_lr: dict[Part, Positive] = field(default_factory=dict)
    """Learning rate of parts of a model that sees, where it is another one: vision (the tower),
    projector, language."""
    freeze: list[Part] = field(default_factory=list)
    """Parts that are not trained: vision, projector, language. With a frozen tower, Mllama encodes
    each image once an episode."""
    lr_end: NotNegative = 0.0
    """Learning rate that the schedule ends at. Paper: 1e-9."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate goes from `lr` to `lr_end`, stepped once per update."""
    lr_horizon: Count | None = None
    """Updates after which the schedule reaches `lr_end`; None: num_updates. Paper: 100 (but by
    accelerate's scheduler, which stepped once per process, after 12.5 on 8 GPUs)."""
    lr_warmup: Natural = 0
    """First updates, over which the learning rate rises. Adam's first steps are as long as
    the learning rate in every parameter, however noisy the gradient."""
    adam_eps: Positive = 1e-7
    """Paper: 1e-7."""
    weight_decay: NotNegative = 0.0
    """Of AdamW."""
    max_grad_norm: Positive = 1.0
    """Gradient norm that is clipped to, under DeepSpeed too. Paper: 0.01, but 1.0 was applied."""
    kl_coef: NotNegative = 0.0
    """Weight of the KL divergence from the reference, per token, in the loss (estimator k3, as in
    arXiv 2402.03300). The reference is the initial checkpoint: the adapter switched off, or a
    frozen copy."""
    prefix_weight: Share = 1.0
    """Weight of the tokens of a reply before its answer field (the environment's `answer_field`) in
    its log-probability. Paper: 0.5. A reply without that field has only such tokens."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    """Train adapters instead of all weights."""
    gradient_checkpointing: bool = False
    """Whether a backward pass computes each layer's activations again instead of keeping them."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What is computed in. Weights that are trained are kept in float32 all the same (by autocast,
    or as DeepSpeed's master copy): in bfloat16 a step of 1e-6 would round to nothing."""

    ppo: PPOConfig = field(default_factory=PPOConfig)
    """Settings of algorithm ppo."""
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    """Settings of algorithm grpo."""

    save_every: Natural = 0
    """Updates between checkpoints; 0: at the end only. The initial one is always saved."""
    keep_last: Natural = 2
    """Checkpoints that are kept, beside the initial and the best one; 0 keeps all."""
    keep_states: Natural = 0
    """Checkpoints, the newest, that keep the optimizer's state, which is most of their size; 0: all
    do. The others can be evaluated and started from, but a run cannot resume from them."""
    best_by: str = "eval/id/sampled"
    """What makes a checkpoint the best one: its highest value, eval/SUITE/DECODING, in an
    evaluation during training (`eval_every`). (What an update reports of its own episodes is of the
    policy before it.)"""
    eval_every: Natural = 0
    """Updates between evaluations during training; 0: none."""
    monitor: EvalConfig = field(
        default_factory=lambda: EvalConfig(episodes=100, decoding=["sampled"], verify_iter=1)
    )
    """Those evaluations: small, for the curve."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """The evaluation of the initial and the last checkpoint, which the final table shows."""
    eval_ends: bool = True
    """Whether those two are evaluated; without it, the run ends with its last checkpoint."""
    log_dialogues: Natural = 4
    """Sampled dialogues written to dialogues.jsonl per update."""
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Trackers of accelerate beside metrics.jsonl: tensorboard, wandb, mlflow, ..."""


def check_config(config: RLConfig) -> None:
    """Raise InputError for values that describe no run."""
    if not config.model:
        raise InputError("model: name an initial checkpoint with --model=DIRECTORY_OR_HUB_NAME")
    check_ranges(config)
    if config.minibatch_size % config.microbatch_size:
        raise InputError(
            f"minibatch_size={config.minibatch_size}: must be a multiple of "
            f"microbatch_size={config.microbatch_size}"
        )
    if config.overlap and config.sampler != "vllm":
        raise InputError(f"overlap={config.overlap}: is for sampler=vllm, by servers that go on")
    if config.overlap and config.old_logprobs == "sampled":
        raise InputError("old_logprobs=sampled: with overlap they are recomputed; leave it at auto")
    if not config.lora.targets:
        raise InputError("lora.targets: must name modules")
    known = [logger.value for logger in LoggerType]
    for tracker in config.trackers:
        if tracker not in known:
            raise InputError(f"trackers: {tracker!r} must be one of {', '.join(known)}")
    check_eval_config(config.eval)
    check_eval_config(config.monitor)
