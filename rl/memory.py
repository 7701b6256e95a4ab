"""What a run will need: memory per device and on the host, before any weight is loaded.

Symbols: B sequences of T tokens, N reply tokens; L layers of width h, q = heads x head size, k the
same for keys, feed-forward width f, V words; c bytes of a number that is computed, r of one in the
residual stream, a of one in an adapter; W processes, t trained parameters.

The formulas are for decoders of Llama's kind (grouped attention by a fused kernel, gated
feed-forward, RMSNorm) and follow what autograd keeps; rl/tests/test_memory.py compares them with
what it kept. Not counted: the CUDA context and what the allocator leaves unused, a few GiB; and of
a model that sees, all but the parameters: what the vision tower and the layers that attend to
images keep, which grows with microbatch_size and sampling_batch.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import yaml
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedConfig

from gym_dialogue import Message, NoisyOraclePolicy, Task, rollout, shows_images
from gym_dialogue.make import make_envs, with_prompt_file
from gym_policy import Renderer, load_tokenizer
from gym_policy.logprobs import states_at_once
from gym_policy.models.adapter import add_adapter
from gym_policy.models.architecture import (
    TextSizes,
    empty_model,
    load_architecture,
    local_directory,
    text_parameters,
    text_sizes,
)
from gym_policy.parts import freeze_parts
from rl.actor_critic import ActorCritic
from rl.backend import check_stage
from rl.config import RLConfig as Config
from rl.devices import Launch, read_launch
from rl.learner import SCORED_TOGETHER

GIB = 2**30
DEVICE_BYTES = 80 * GIB
"""What a device of the paper's kind holds, against which a plan is judged."""

LAYER, LOGITS = "work of one layer", "logits"
"""Parts of a phase of which only the larger one counts: they are not there together."""

_CACHE_SPARE = 64  # positions that a growing cache allocates ahead
_TEMPLATE_TOKENS = 32  # of a chat template around a message, where no tokenizer can be asked
_DEALS = 16  # episodes among which the longest prompt is looked for
_HOST_BUFFERS = 0.5  # of what is offloaded: what DeepSpeed's estimators add for staging


@dataclass(frozen=True)
class Counts:
    """Parameters. `added` are those that training adds: adapters and the value head."""

    base: int
    base_trained: int
    added: int
    added_trained: int
    matrices: int
    """Those of the base that autocast casts: trained ones, the embedding aside."""
    largest: int
    """In one module, what ZeRO-3 gathers at once."""
    adapted: int = 0
    """Sum over adapters of the width of their input."""
    adapter_ranks: int = 0
    """Sum over adapters of their rank."""

    @property
    def total(self) -> int:
        """All parameters."""
        return self.base + self.added

    @property
    def trained(self) -> int:
        """Those with a gradient."""
        return self.base_trained + self.added_trained


@dataclass(frozen=True)
class Precision:
    """Bytes of a number."""

    base: int
    added: int
    compute: int
    residual: int
    autocast: bool = False


@dataclass(frozen=True)
class Lengths:
    """Tokens of the longest prompt and verifier's message seen, with the template around them."""

    prompt: int
    feedback: int
    verify_iter: int
    counted: bool
    """Whether by the tokenizer, else from the number of characters."""

    def context(self, replies: int, max_new_tokens: int) -> int:
        """Tokens before the last of so many replies, all of the greatest length."""
        return self.prompt + (replies - 1) * (max_new_tokens + self.feedback)

    def dialogue(self, replies: int, max_new_tokens: int) -> int:
        """Tokens to the end of the last reply."""
        return self.context(replies, max_new_tokens) + max_new_tokens


@dataclass(frozen=True)
class Facts:
    """What a plan rests on."""

    architecture: PreTrainedConfig
    counts: Counts
    lengths: Lengths
    with_images: bool = False


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by phase and part on each device, and by part on each machine's host."""

    launch: Launch
    facts: Facts
    phases: dict[str, dict[str, int]]
    host: dict[str, int]

    def total(self, phase: str) -> int:
        """Bytes on a device in a phase. Logits and a layer's work are not there together."""
        parts = self.phases[phase]
        return sum(parts.values()) - min(parts.get(LAYER, 0), parts.get(LOGITS, 0))

    @property
    def peak_phase(self) -> str:
        """The phase that needs most."""
        return max(self.phases, key=self.total)

    @property
    def peak(self) -> int:
        """Bytes on a device when it is fullest."""
        return self.total(self.peak_phase)

    @property
    def host_peak(self) -> int:
        """Bytes on a machine's host: weights are loaded before anything is offloaded."""
        loading = self.host.get("weights, while they are loaded", 0)
        return max(loading, sum(self.host.values()) - loading)


def count_parameters(
    architecture: PreTrainedConfig, config: Config, with_images: bool = False
) -> Counts:
    """The parameters of a run's model, by building it on device meta as training builds it. Without
    images, what only they pass through is frozen.
    """
    model = empty_model(architecture)
    base = list(model.parameters())
    embedding = model.get_input_embeddings().weight
    if config.lora.rank:
        lora = config.lora
        with torch.device("meta"):
            add_adapter(
                model,
                config.model,
                lora.rank,
                lora.alpha,
                lora.dropout,
                lora.targets,
                config.freeze,
            )
    freeze_parts(model, config.freeze)
    critic = ActorCritic(model, 1.0, tuple(config.ppo.value_hidden))
    reached = {
        id(p)
        for p in (model.parameters() if with_images else text_parameters(model))
        if p.requires_grad
    }
    base_ids = {id(p) for p in base}
    head = sum(p.numel() for p in critic.value_head.parameters())
    adapters = [p for p in model.parameters() if id(p) not in base_ids]
    adapted = [
        module
        for module in model.modules()
        if isinstance(module, LoraLayer)
        and any(id(p) in reached for p in module.lora_A.parameters())
    ]
    return Counts(
        base=sum(p.numel() for p in base),
        base_trained=sum(p.numel() for p in base if id(p) in reached),
        added=sum(p.numel() for p in adapters) + head,
        added_trained=sum(p.numel() for p in adapters if id(p) in reached)
        + head * (config.algorithm == "ppo"),
        matrices=sum(
            p.numel() for p in base if id(p) in reached and p.dim() == 2 and p is not embedding
        ),
        largest=max(sum(p.numel() for p in m.parameters(recurse=False)) for m in critic.modules()),
        adapted=sum(module.in_features for module in adapted),
        adapter_ranks=len(adapted) * config.lora.rank,
    )


def precision_of(config: Config, launch: Launch) -> Precision:
    """What a run keeps and computes its numbers in.

    bfloat16 is, under DeepSpeed, all of the model; with adapters, their frozen base alone; else
    autocast over float32 weights.
    """
    if config.dtype == "float32":
        return Precision(base=4, added=4, compute=4, residual=4)
    if launch.zero_stage is not None:
        return Precision(base=2, added=2, compute=2, residual=2)
    if config.lora.rank:
        return Precision(base=2, added=4, compute=2, residual=2)
    return Precision(base=4, added=4, compute=2, residual=4, autocast=True)


def measure_dialogue(config: Config) -> Lengths:
    """Lengths in tokens of what the environment says, from episodes of which half the replies are
    wrong.
    """
    env = make_envs(with_prompt_file(config.env, config.prompt_file), 1)
    tasks = [Task(seed, (seed,)) for seed in range(_DEALS)]
    episodes = rollout(env, NoisyOraclePolicy(0.5), tasks)
    prompt = max((d.messages[0].text for e in episodes for d in e.dialogues), key=len)
    feedback = max((turn.feedback for e in episodes for turn in e.turns), key=len)
    verify_iter = env[0].unwrapped.verify_iter
    tokenizer = _local_tokenizer(config)
    if tokenizer is None:
        # English and JSON have 3 to 4 characters a token in the vocabularies of current models.
        guessed = [math.ceil(len(text) / 3) + _TEMPLATE_TOKENS for text in (prompt, feedback)]
        return Lengths(*guessed, verify_iter, counted=False)
    said = [Message("user", prompt), Message("assistant", "1"), Message("user", feedback)]
    renderer = Renderer(tokenizer, template_kwargs=config.chat_template_kwargs)
    first, both = renderer.render(said[:1]), renderer.render(said)
    between = len(both.token_ids) - len(first.token_ids) - sum(turn == 0 for turn in both.turn)
    return Lengths(len(first.token_ids), between, verify_iter, counted=True)


def _local_tokenizer(config: Config) -> Any:
    directory = local_directory(config.model)
    names = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
    if directory is None or not any((directory / name).is_file() for name in names):
        return None
    return load_tokenizer(str(directory), config.trust_remote_code)


def model_states(counts: Counts, precision: Precision, launch: Launch) -> dict[str, int]:
    """Bytes per device of weights, gradients and optimizer states, by part."""
    if launch.zero_stage is not None:
        return _zero_states(counts, precision.base, launch)
    states = {
        # The base as it is loaded, what is added in float32.
        "weights": precision.base * counts.base + precision.added * counts.added,
        # Trained parameters are float32, and so are their gradients and AdamW's two moments.
        "gradients": 4 * counts.trained,
        "optimizer states": 8 * counts.trained,
    }
    if launch.processes > 1:
        # DistributedDataParallel reduces gradients in buckets that hold a copy of all of them
        # (gradient_as_bucket_view is off).
        states["gradient buckets"] = 4 * counts.trained
    return states


def _zero_states(counts: Counts, width: int, launch: Launch) -> dict[str, int]:
    """ZeRO (Rajbhandari et al. 2019, arXiv 1910.02054), with `width` bytes a weight. Trained
    parameters are as in DeepSpeed's estimators; those take all for trained and 16 bits wide, so
    frozen ones are counted here.
    """
    stage, trained, parts = launch.zero_stage, counts.trained, launch.processes
    share = trained / parts if stage else trained
    on_device = launch.offload_optimizer == "none"
    # Stage 3 partitions weights too, and gathers a module whole, with its gradient.
    weights = width * counts.total / (parts if stage == 3 else 1)
    weights *= not (stage == 3 and launch.offload_parameters != "none")
    gathered = 2 * width * counts.largest * (stage == 3)
    # A share of a float32 copy of the weights and of two moments.
    optimizer = on_device * 12 * share
    # A share of the gradient in float32 for the step; before that it is in the model's type, whole
    # in stage 1, a share in stage 2, in stage 3 in a buffer that stays.
    kept = {0: trained, 1: trained, 2: share, 3: 0}[stage]
    gradients = on_device * (width * kept + 4 * share)
    estimate = _deepspeed_estimate(launch, trained, counts.largest)
    if estimate is not None and width == 2:
        frozen = weights * (1 - trained / counts.total)
        gradients = estimate + frozen - weights - gathered - optimizer
    # Gradients are reduced in a buffer of fixed size; one at a time leaves for the host.
    buffers = launch.bucket * (stage > 0) + (share * (stage == 3) if on_device else counts.largest)
    return {
        "weights": int(weights),
        "modules gathered in turn": int(gathered),
        "gradients": max(0, int(gradients)),
        "optimizer states": int(optimizer),
        "DeepSpeed's buffers": int(width * buffers),
    }


def _deepspeed_estimate(launch: Launch, trained: int, largest: int) -> int | None:
    """What DeepSpeed says that the states take on a device if all weights are trained, in 16 bits;
    None where it has no estimator or is not installed.
    """
    cpu_offload = launch.offload_optimizer != "none"
    cpu_offload_params = launch.offload_parameters != "none"
    if launch.zero_stage < 2 or (cpu_offload_params and not cpu_offload):
        return None
    logging.disable(logging.WARNING)  # it says that it has found no GPU
    try:
        from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
        from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
    except ImportError:
        return None
    finally:
        logging.disable(logging.NOTSET)
    shape = {
        "num_gpus_per_node": launch.processes // launch.machines,
        "num_nodes": launch.machines,
        "cpu_offload": cpu_offload,
    }
    if launch.zero_stage == 2:
        return estimate_zero2_model_states_mem_needs(trained, **shape)[1]
    return estimate_zero3_model_states_mem_needs(
        trained, largest, cpu_offload_params=cpu_offload_params, **shape
    )[1]


def host_memory(counts: Counts, precision: Precision, launch: Launch) -> dict[str, int]:
    """Bytes on a machine's host, by part, where devices have memory of their own."""
    if launch.on_cpu:
        return {}
    each = launch.processes // launch.machines
    # Every process reads the weights before it moves them to its device.
    host = {"weights, while they are loaded": each * precision.base * counts.base}
    offloaded = 0
    if launch.offload_optimizer == "cpu":
        # A float32 gradient, weight and two moments, partitioned over all processes.
        offloaded = 16 * counts.trained // launch.machines
        host["optimizer states"] = offloaded
    if launch.offload_parameters == "cpu":
        weights = precision.base * counts.total // launch.machines
        host["weights"] = weights
        offloaded += weights
    if offloaded:
        host["DeepSpeed's buffers"] = int(_HOST_BUFFERS * offloaded)
    return host


@dataclass(frozen=True)
class Activations:
    """Bytes that passes through the layers take."""

    sizes: TextSizes
    counts: Counts
    precision: Precision
    dropout: bool = False
    """Whether adapters have it."""
    device: str = "cpu"

    @property
    def casts(self) -> int:
        """Autocast's casts of the weights, which it keeps to the end of a pass at least."""
        return self.precision.autocast * self.precision.compute * self.counts.matrices

    def kept_by_layer(self) -> float:
        """What a layer keeps for its backward pass, per token, casts aside."""
        sizes, counts = self.sizes, self.counts
        h, f = sizes.hidden, sizes.feed_forward
        c, r, a = self.precision.compute, self.precision.residual, self.precision.added
        trains_base = counts.base_trained > 0
        # RMSNorm, twice: its input in float32, 1 / rms, and for its weight the normalised values.
        norms = 2 * (4 * h + 4 + trains_base * r * h)
        # Fused attention: rotated queries and keys, values, output, and a log-sum-exp by head.
        attention = c * (2 * sizes.queries + 2 * sizes.keys) + 4 * sizes.heads
        # Gated feed-forward: the gate before and after its activation, and what it multiplies.
        feed_forward = 3 * c * f
        # Inputs of trained linear layers: the outputs of two norms and the product of the gate;
        # autocast casts them anew for each of queries, keys, values, gate and up.
        inputs = trains_base * c * ((5 if self.precision.autocast else 2) * h + f)
        # An adapter keeps its inner values, and its input: shared as above where it needs no cast
        # and no dropout (which adds a mask), else its own.
        adapted = counts.adapted / sizes.layers
        own = a != c or self.dropout
        inputs += (a + self.dropout) * adapted if own else c * min(adapted, 2 * h + f)
        inner = a * counts.adapter_ranks / sizes.layers
        return norms + attention + feed_forward + inputs + inner

    def kept(self, tokens: int, checkpointing: bool) -> int:
        """What B x T tokens keep until the backward pass. Checkpointing (Chen et al. 2016, arXiv
        1604.06174) keeps the input of each layer only.
        """
        h, r, layers = self.sizes.hidden, self.precision.residual, self.sizes.layers
        each = layers * (r * h if checkpointing else self.kept_by_layer())
        last_norm = (4 + 2 * r) * h  # as in a layer, and its output
        return int(tokens * (each + last_norm) + (not checkpointing) * self.casts)

    def learning(self, tokens: int, checkpointing: bool) -> int:
        """What comes on top in the backward pass: the gradient of a trained head, or in a layer's
        turn gradients, two of the width of the feed-forward part or those of a norm in float32, and
        with checkpointing what the layer computes again.
        """
        h, c, r = self.sizes.hidden, self.precision.compute, self.precision.residual
        each = max(2 * c * self.sizes.feed_forward, 18 * h)
        layer = tokens * each
        if checkpointing:
            again = self.kept_by_layer() - r * h
            layer += tokens * again + self.casts / self.sizes.layers
        head = (self.counts.base_trained > 0) * self.precision.base * h * self.sizes.vocabulary
        return int(max(layer, head))

    def forward(self, tokens: int) -> int:
        """The most of a forward pass without gradients, casts aside: in the feed-forward part. It
        holds three tensors of its width beside the embedding, the layer's input, the residual and
        its norm.
        """
        h, f = self.sizes.hidden, self.sizes.feed_forward
        c, r, a = self.precision.compute, self.precision.residual, self.precision.added
        each = 3 * r * h + c * (h + 3 * f)
        if self.counts.adapted:
            # The base's output waits for the adapter's, which scaling makes two.
            each = 3 * r * h + c * (h + 2 * f) + 2 * a * f + (a != c) * a * h
        return int(tokens * each)

    def cache(self, batch: int, positions: int) -> int:
        """Keys and values of B dialogues in every layer, and twice those of one while it grows."""
        # B x T x 2 k x c x (L + 1)
        each = 2 * self.sizes.keys * self.precision.compute
        return batch * positions * each * (self.sizes.layers + 1)

    def sampling(self, batch: int, context: int, max_new_tokens: int) -> dict[str, int]:
        """What B replies take, by part: a forward pass over what comes before them, with a mask of
        B x T x T truth values as dialogues differ in length, and then a token at a time. While that
        pass lasts, the cache lacks the replies.
        """
        lacking = self.cache(batch, max_new_tokens)
        mask = batch * context**2
        return {
            "key-value cache": lacking + self.cache(batch, context + _CACHE_SPARE),
            LAYER: max(0, self.forward(batch * context) + mask - lacking),
            LOGITS: self.drawn_logits(batch),
        }

    def learnt_logits(self, replies: int, checkpointing: bool) -> int:
        """Logits z of N reply tokens, or of those scored together, forward and backward.

        softmax(z) and log softmax(z) are kept in float32; the entropy adds the gradients of their
        product to both and that of the exponential: 20 bytes. Casts that are not kept are there in
        the forward pass all the same.
        """
        forward = self.scored_logits(replies) + checkpointing * self.casts
        return max(20 * self._scored_together(replies), forward)

    def scored_logits(self, replies: int) -> int:
        """Without gradients: z, and in float32 its log softmax, exponential and their product."""
        return self._scored_together(replies) * (self.precision.compute + 12)

    def _scored_together(self, replies: int) -> int:
        """Logits of the tokens that are scored together."""
        vocabulary = self.sizes.vocabulary
        return min(replies, states_at_once(vocabulary, self.device)) * vocabulary

    def drawn_logits(self, batch: int) -> int:
        """Of one token for each of B dialogues: z, in float32 z and log softmax(z), in float64 the
        latter and its exponential.
        """
        return batch * self.sizes.vocabulary * (self.precision.compute + 24)


def find_facts(config: Config) -> Facts:
    """Raises InputError where model or environment cannot be had."""
    architecture = load_architecture(config.model, config.trust_remote_code)
    (env,) = make_envs(with_prompt_file(config.env, config.prompt_file), 1)
    with_images = shows_images(env)
    counts = count_parameters(architecture, config, with_images)
    return Facts(architecture, counts, measure_dialogue(config), with_images)


def plan(config: Config, launch: Launch, facts: Facts | None = None) -> MemoryPlan:
    """The memory of a run. Every reply is taken to be as long as it may be, and every dialogue to
    need all its replies. Raises InputError as find_facts does.
    """
    facts = facts or find_facts(config)
    counts, lengths = facts.counts, facts.lengths
    precision = precision_of(config, launch)
    dropout = config.lora.rank > 0 and config.lora.dropout > 0
    device = "cpu" if launch.on_cpu else "cuda"
    work = Activations(text_sizes(facts.architecture), counts, precision, dropout, device)
    states = model_states(counts, precision, launch)
    if config.kl_coef > 0 and not config.lora.rank:
        # The start, frozen; with adapters it is the base, which is there.
        states["frozen copy of the start"] = precision.base * counts.base
    passing = ("gradients", "modules gathered in turn")
    resting = {part: size for part, size in states.items() if part not in passing}
    resting["weights cast by autocast"] = work.casts

    def sampling(batch: int, replies: int, max_new_tokens: int) -> dict[str, int]:
        gathered = (launch.zero_stage == 3) * precision.base * counts.total
        context = lengths.context(replies, max_new_tokens)
        parts = work.sampling(batch, context, max_new_tokens)
        if config.sampler == "cached":  # of the turn before, while the next is begun
            parts["keys and values kept"] = work.cache(batch, context)
        return resting | {"weights gathered whole": gathered} | parts

    turns, longest, micro = lengths.verify_iter, config.max_new_tokens, config.microbatch_size
    tokens, replies = micro * lengths.dialogue(turns, longest), micro * turns * longest
    checkpointing = config.gradient_checkpointing
    batch = min(config.num_envs, config.sampling_batch)
    evaluated = config.eval
    phases = {
        "sampling": sampling(batch, turns, longest),
        "evaluation": sampling(
            evaluated.batch_size, evaluated.verify_iter, evaluated.max_new_tokens
        ),
    }
    with_logits = config.old_logprobs != "sampled" or config.kl_coef > 0
    if config.algorithm == "ppo" or with_logits:
        phases["scoring"] = resting | {
            "modules gathered in turn": states.get("modules gathered in turn", 0),
            LAYER: work.forward(SCORED_TOGETHER * tokens),
            LOGITS: with_logits * work.scored_logits(SCORED_TOGETHER * replies),
        }
    phases["learning"] = states | {
        "activations kept": work.kept(tokens, checkpointing),
        LAYER: work.learning(tokens, checkpointing),
        LOGITS: work.learnt_logits(replies, checkpointing),
    }
    if launch.offload_optimizer == "none":
        share = counts.trained // (launch.processes if launch.zero_stage else 1)
        # AdamW takes the roots of all second moments at once on a GPU (foreach).
        phases["step"] = states | {"roots of moments": (not launch.on_cpu) * 4 * share}
    host = host_memory(counts, precision, launch)
    return MemoryPlan(launch, facts, phases, host)


def print_plan(config: Config) -> None:
    """Print the resolved configuration, how it will be launched, and the memory it will take."""
    print(yaml.safe_dump(asdict(config), sort_keys=False))
    print("\n".join(describe(config, read_launch(os.environ.get("ACCELERATE_CONFIG")))))


def describe(config: Config, launch: Launch) -> list[str]:
    """The lines that tell a plan."""
    check_stage(config, launch.zero_stage)
    planned = plan(config, launch)
    counts, lengths = planned.facts.counts, planned.facts.lengths
    replies, source = lengths.verify_iter, planned.facts.architecture.name_or_path
    longest = lengths.dialogue(replies, config.max_new_tokens)
    how = "by its tokenizer" if lengths.counted else "guessed: its tokenizer is not on this machine"
    lines = [
        f"Launch: {launch}",
        f"Model: {config.model}{'' if source == config.model else f' (from {source})'}: "
        f"{counts.total / 1e6:,.1f} M parameters, {counts.trained / 1e6:,.1f} M of them trained",
        f"Dialogue: up to {longest:,} tokens: a prompt of {lengths.prompt}, {replies} replies of "
        f"{config.max_new_tokens}, {lengths.feedback} between them ({how})",
        "",
        *table(planned),
        "(in brackets: not there when the phase is fullest)",
        "",
        f"Peak: {planned.peak_phase}, {_size(planned.peak)}, with replies as long as they may be",
    ]
    if planned.facts.with_images:
        lines.append("Not counted: what the vision part, and the layers that attend to it, keep")
    if launch.on_cpu:
        return [*lines, f"All processes: {_size(launch.processes * planned.peak)} of host memory"]
    parts = ", ".join(f"{_size(size)} of {part}" for part, size in planned.host.items())
    lines += [
        "On top: the CUDA context and what the allocator leaves unused, a few GiB",
        f"Host, each machine: {_size(planned.host_peak)} ({parts})",
    ]
    return lines + advice(config, planned)


def table(planned: MemoryPlan) -> list[str]:
    """Parts by phase, with the sum of each phase; in brackets what its sum leaves out."""
    parts = list(dict.fromkeys(part for parts in planned.phases.values() for part in parts))
    unit, name = (GIB, "GiB") if planned.peak >= GIB else (2**20, "MiB")

    def cell(phase: dict[str, int], part: str) -> str:
        size = phase.get(part, 0)
        if part in (LAYER, LOGITS) and size < max(phase.get(LAYER, 0), phase.get(LOGITS, 0)):
            return f"({size / unit:.1f})"
        return f"{size / unit:.1f} " if size else "- "

    unit_of = "process" if planned.launch.on_cpu else "device"
    rows = [(f"{name} a {unit_of}", [f"{phase} " for phase in planned.phases])]
    for part in parts:
        if any(phase.get(part) for phase in planned.phases.values()):
            rows.append((part, [cell(phase, part) for phase in planned.phases.values()]))
    rows.append(("sum", [f"{planned.total(phase) / unit:.1f} " for phase in planned.phases]))
    width = max(len(part) for part, _ in rows)
    return [f"{part:{width}}" + "".join(f"{cell:>12}" for cell in cells) for part, cells in rows]


def advice(config: Config, planned: MemoryPlan) -> list[str]:
    """Where a phase exceeds DEVICE_BYTES: what one change of the settings would make of it."""
    over = [phase for phase in planned.phases if planned.total(phase) > DEVICE_BYTES]
    if not over:
        return []
    lines = [f"This exceeds {_size(DEVICE_BYTES)} in {', '.join(over)}. One change would make it:"]
    for change, other in _alternatives(config, planned):
        better = [
            f"{phase} {_size(other.total(phase))}"
            for phase in over
            if phase in other.phases and other.total(phase) < 0.98 * planned.total(phase)
        ]
        if better:
            lines.append(f"  {change}: {', '.join(better)}")
    return lines


def _alternatives(config: Config, planned: MemoryPlan) -> Iterator[tuple[str, MemoryPlan]]:
    """Plans with one setting changed, and the setting."""
    launch, facts = planned.launch, planned.facts

    def with_settings(**settings: Any) -> MemoryPlan:
        return plan(replace(config, **settings), launch, facts)

    def with_launch(**settings: Any) -> MemoryPlan:
        return plan(config, replace(launch, **settings), facts)

    if not config.gradient_checkpointing:
        yield "--gradient_checkpointing=true", with_settings(gradient_checkpointing=True)
    if config.microbatch_size > 1:
        yield "--microbatch_size=1", with_settings(microbatch_size=1)
    batch = min(config.num_envs, config.sampling_batch)
    if planned.total("sampling") > DEVICE_BYTES and batch > 1:
        smaller = _fitting(planned, "sampling", batch)
        yield f"--sampling_batch={smaller}", with_settings(sampling_batch=smaller)
    batch = config.eval.batch_size
    if planned.total("evaluation") > DEVICE_BYTES and batch > 1:
        smaller = _fitting(planned, "evaluation", batch)
        smaller_eval = replace(config.eval, batch_size=smaller)
        yield f"--eval.batch_size={smaller}", with_settings(eval=smaller_eval)
    if launch.zero_stage is not None:
        if launch.zero_stage < 3:
            yield "zero_stage: 3", with_launch(zero_stage=3)
        if launch.offload_optimizer == "none":
            yield "offload_optimizer_device: cpu", with_launch(offload_optimizer="cpu")
    if not config.lora.rank:
        lora = replace(config, lora=replace(config.lora, rank=64))
        counts = count_parameters(facts.architecture, lora, facts.with_images)
        fewer = replace(facts, counts=counts)
        yield "--lora.rank=64", plan(lora, launch, fewer)


def _fitting(planned: MemoryPlan, phase: str, batch: int) -> int:
    """The largest power of two below `batch` with which a phase stays below nine tenths of
    DEVICE_BYTES, if one does; else 1.
    """
    parts = planned.phases[phase]
    each = (parts["key-value cache"] + max(parts[LAYER], parts[LOGITS])) / batch
    free = 0.9 * DEVICE_BYTES - planned.total(phase) + each * batch
    return 2 ** int(math.log2(max(1, min(free / each, batch - 1))))


def _size(size: float) -> str:
    return f"{size / GIB:,.1f} GiB" if size >= GIB else f"{size / 2**20:,.1f} MiB"
