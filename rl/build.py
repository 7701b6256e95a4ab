"""Making the models of a run: the policy with its value head, and the reference that KL is to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed

from gym_command.run_dir import RunDir, saved_checkpoints
from gym_dialogue import InputError
from gym_policy import Renderer, load_model, load_renderer
from gym_policy.distributed import whole_weights
from gym_policy.limits import check_sequence
from gym_policy.models.adapter import add_adapter, base_of, check_base, fingerprint, is_adapted
from gym_policy.parts import check_parts, freeze_parts
from gym_policy.renderer import Rendered
from gym_policy.training.freezing import check_linear_head, freeze_unreached
from gym_policy.vision import checkpoint_activations
from rl.actor_critic import ActorCritic
from rl.backend import load_dtype
from rl.checkpoint import restore_trained_adapter
from rl.config import RLConfig


@dataclass
class Models:
    """The models of a run, on the device of this rank."""

    source: str
    """Where the policy's weights were loaded from; under an adapter, its base."""
    renderer: Renderer
    example: Rendered
    """A prompt of the environment."""
    actor_critic: ActorCritic
    reference: ActorCritic | None
    """A frozen copy of the initial policy; None where KL is not wanted, or the reference is the
    policy with its adapter switched off."""


def build_models(
    config: RLConfig, accelerator: Accelerator, env: Any, checkpoint: Path | None
) -> Models:
    """Load the models of a run that starts, or that resumes from a checkpoint.

    Raises InputError where the model cannot be trained in this environment with these settings.
    """
    if checkpoint is None:
        source = saved_checkpoints(config.model)[-1]
    else:  # what the run itself has kept, wherever its initial checkpoint is now
        source = base_of(checkpoint) if config.lora.rank else str(checkpoint)
    renderer = load_renderer(
        str(checkpoint or source), config.chat_template_kwargs, config.trust_remote_code
    )
    example = renderer.first_prompt(env, source)
    set_seed(config.seed)  # the same initial value head and adapter on every rank
    actor_critic = make_actor_critic(config, source, accelerator, example, checkpoint)
    reference = None
    if config.kl_coef > 0 and not config.lora.rank:
        # A resumed run takes what it saved at first, which is there however long it goes on.
        initial = source if checkpoint is None else RunDir(config.run_dir).checkpoint(0)
        reference = make_actor_critic(config, str(initial), accelerator, example)
        reference.requires_grad_(False)
    if checkpoint is not None:
        restore_trained_adapter(actor_critic, checkpoint)
    actor_critic.load_value_head(checkpoint or source)
    return Models(source, renderer, example, actor_critic, reference)


def make_actor_critic(
    config: RLConfig,
    path: str,
    accelerator: Accelerator,
    example: Rendered,
    checkpoint: Path | None = None,
) -> ActorCritic:
    """Return the policy that is trained, all of it or an adapter on it, with its critic, on the
    device. What an `example` of the dialogues does not pass through is frozen.

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
        lora = config.lora
        adapter = add_adapter(
            model, path, lora.rank, lora.alpha, lora.dropout, lora.targets, config.freeze
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
