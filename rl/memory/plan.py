"""The memory of a run, phase by phase."""

from __future__ import annotations

from dataclasses import dataclass, replace

from transformers import PreTrainedConfig

from gym_dialogue import shows_images
from gym_dialogue.make import make_envs, with_prompt_file
from gym_policy.models.architecture import load_architecture, text_sizes
from rl.config import RLConfig
from rl.devices import Launch
from rl.learner import SCORED_TOGETHER
from rl.memory.activations import LAYER, LOGITS, Activations
from rl.memory.lengths import Lengths, measure_lengths
from rl.memory.parameters import Counts, count_parameters
from rl.memory.precision import precision_of
from rl.memory.states import GATHERED, LOADING, host_memory, model_states
from rl.memory.vision import IMAGES, ImageSizes, ImageWork, image_sizes


@dataclass(frozen=True)
class Facts:
    """What a plan is computed from, beside the settings."""

    architecture: PreTrainedConfig
    counts: Counts
    lengths: Lengths
    images: ImageSizes | None = None
    """None for a task in words."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by phase and part on each device, and by part on each host."""

    launch: Launch
    facts: Facts
    phases: dict[str, dict[str, int]]
    host: dict[str, int]

    def total(self, phase: str) -> int:
        """Return bytes on a device in a phase. Logits and the work of a layer never coexist."""
        parts = self.phases[phase]
        return sum(parts.values()) - min(parts.get(LAYER, 0), parts.get(LOGITS, 0))

    @property
    def peak_phase(self) -> str:
        """Return the phase that needs most."""
        return max(self.phases, key=self.total)

    @property
    def peak(self) -> int:
        """Bytes on a device in its fullest phase."""
        return self.total(self.peak_phase)

    @property
    def host_peak(self) -> int:
        """Bytes on a host at its fullest: weights are loaded before anything is offloaded."""
        loading = self.host.get(LOADING, 0)
        return max(loading, sum(self.host.values()) - loading)


def find_facts(config: RLConfig) -> Facts:
    """Return the facts of a run. Raises InputError if the model or environment is unavailable."""
    architecture = load_architecture(config.model, config.trust_remote_code)
    (env,) = make_envs(with_prompt_file(config.env, config.prompt_file), 1)
    with_images = shows_images(env)
    counts = count_parameters(architecture, config, with_images)
    lengths = measure_lengths(config, env)
    if not with_images:
        return Facts(architecture, counts, lengths)
    images = image_sizes(config, architecture, env)
    lengths = replace(lengths, prompt=lengths.prompt + images.tokens)
    return Facts(architecture, counts, lengths, images)


def plan(config: RLConfig, launch: Launch, facts: Facts | None = None) -> MemoryPlan:
    """Plan the memory of a run whose replies all have maximum length and whose dialogues all use
    every reply they may. Raises InputError as find_facts does.
    """
    facts = facts or find_facts(config)
    run = _Phases(config, launch, facts)
    evaluated = config.eval
    phases = {
        "sampling": run.sending()
        if config.sampler == "vllm"
        else run.sampling(
            min(config.num_envs, config.sampling_batch),
            facts.lengths.verify_iter,
            config.max_new_tokens,
        ),
        "evaluation": run.sampling(
            evaluated.batch_size, evaluated.verify_iter, evaluated.max_new_tokens
        ),
    }
    if config.algorithm == "ppo" or run.scores_logits:
        phases["scoring"] = run.scoring()
    phases["learning"] = run.learning()
    if launch.offload_optimizer == "none":
        phases["step"] = run.step()
    host = host_memory(facts.counts, run.precision, launch)
    return MemoryPlan(launch, facts, phases, host)


class _Phases:
    """Bytes by part on a device, in each phase of one run."""

    def __init__(self, config: RLConfig, launch: Launch, facts: Facts):
        self.config, self.launch, self.facts = config, launch, facts
        self.precision = precision_of(config, launch)
        sizes = text_sizes(facts.architecture)
        self.images: ImageWork | None = None
        if facts.images is not None:
            sizes = replace(sizes, layers=sizes.layers + facts.images.cross_layers)
            self.images = ImageWork(
                facts.images,
                self.precision.compute,
                trained="vision" not in config.freeze,
                keys=sizes.keys,
                hidden=sizes.hidden,
            )
        self.work = Activations(
            sizes,
            facts.counts,
            self.precision,
            dropout=config.lora.rank > 0 and config.lora.dropout > 0,
            device="cpu" if launch.on_cpu else "cuda",
        )
        self.states = model_states(facts.counts, self.precision, launch)
        if config.kl_coef > 0 and not config.lora.rank:
            # The reference model. With adapters, the base serves as the reference.
            self.states["frozen copy of the start"] = self.precision.base * facts.counts.base
        # What stays on the device in phases without a backward pass.
        self.resting = {
            part: size for part, size in self.states.items() if part not in ("gradients", GATHERED)
        }
        self.resting["weights cast by autocast"] = self.work.casts
        self.scores_logits = config.old_logprobs != "sampled" or config.kl_coef > 0

    def sampling(self, batch: int, replies: int, max_new_tokens: int) -> dict[str, int]:
        """Return the parts while the last of `replies` replies of `batch` dialogues are sampled."""
        context = self.facts.lengths.context(replies, max_new_tokens)
        parts = self.work.sampling(batch, context, max_new_tokens)
        if self.config.sampler == "cached":  # those of the last turn, while the next one begins
            parts["keys and values kept"] = self.work.cache(batch, context)
        if self.images is not None:
            parts[IMAGES] = self.images.cache(batch) + self.images.forward(batch)
        return self.sending() | parts

    def sending(self) -> dict[str, int]:
        """Return the parts while servers sample, and before that get the weights."""
        weights = self.precision.base * self.facts.counts.total
        gathered = {"weights gathered whole": weights if self.launch.zero_stage == 3 else 0}
        return self.resting | gathered

    def scoring(self) -> dict[str, int]:
        """Return the parts while values and log-probabilities of collected replies are computed."""
        tokens, replies = self._microbatch()
        logits = self.work.scored_logits(SCORED_TOGETHER * replies) if self.scores_logits else 0
        dialogues = SCORED_TOGETHER * self.config.microbatch_size
        seen = 0 if self.images is None else self.images.scored(dialogues)
        return self.resting | {
            GATHERED: self.states.get(GATHERED, 0),
            IMAGES: seen,
            LAYER: self.work.forward(SCORED_TOGETHER * tokens),
            LOGITS: logits,
        }

    def learning(self) -> dict[str, int]:
        """Return the parts during the forward and backward pass of a microbatch."""
        tokens, replies = self._microbatch()
        checkpointing = self.config.gradient_checkpointing
        seen = 0
        if self.images is not None:
            seen = self.images.kept(self.config.microbatch_size, checkpointing)
        return self.states | {
            IMAGES: seen,
            "activations kept": self.work.kept(tokens, checkpointing),
            LAYER: self.work.learning(tokens, checkpointing),
            LOGITS: self.work.learnt_logits(replies, checkpointing),
        }

    def step(self) -> dict[str, int]:
        """Return the parts during an optimizer step."""
        launch = self.launch
        share = self.facts.counts.trained // (launch.processes if launch.zero_stage else 1)
        # On a GPU, AdamW takes the roots of all second moments at once (foreach).
        return self.states | {"roots of moments": 0 if launch.on_cpu else 4 * share}

    def _microbatch(self) -> tuple[int, int]:
        """Return (tokens, reply tokens) of a microbatch."""
        config, lengths = self.config, self.facts.lengths
        turns, longest = lengths.verify_iter, config.max_new_tokens
        micro = config.microbatch_size
        return micro * lengths.dialogue(turns, longest), micro * turns * longest
