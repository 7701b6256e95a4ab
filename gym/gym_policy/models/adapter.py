"""Low-rank adapters by peft: put on a model, saved, loaded on their base again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from gym_dialogue.errors import InputError
from gym_policy.distributed import is_partitioned
from gym_policy.parts import Part, module_pattern

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
BASE_FILE = "base.json"
_WITH_EMBEDDINGS = False  # an adapter's state is the adapter alone, whatever modules it is on


def add_adapter(
    model: PreTrainedModel,
    base: str,
    rank: int,
    alpha: float,
    dropout: float,
    targets: Sequence[str],
    frozen: Sequence[Part] = (),
) -> PeftModel:
    """Freeze a model and put a trainable low-rank adapter, in float32, on its linear layers.

    `base` is where the model was loaded from; `targets` names modules, or is ["all-linear"]; the
    parts `frozen` get none. The adapter starts as the identity. Raises InputError where no module
    has such a name.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets[0] if list(targets) == ["all-linear"] else list(targets),
        exclude_modules=module_pattern(frozen),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
    )
    model.name_or_path = base
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise InputError(f"lora.targets={list(targets)}: {str(error).splitlines()[0]}") from error
    return adapted


def is_adapted(model: PreTrainedModel) -> bool:
    """Return whether an adapter works in the model."""
    return any(isinstance(module, BaseTunerLayer) for module in model.modules())


def fingerprint(model: PreTrainedModel) -> str | None:
    """Return a short hash that tells models of the same shape apart: names, shapes and the first
    weights of every parameter, adapters left out. None where weights are partitioned (ZeRO-3).
    """
    if is_partitioned(model):
        return None
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name:
            continue
        # bfloat16, whatever the model is loaded in, so that its dtype makes no difference.
        first = parameter.detach().flatten()[:8].to(torch.bfloat16).float().cpu()
        name = name.replace(".base_layer.", ".")
        digest.update(f"{name} {tuple(parameter.shape)} {first.tolist()}\n".encode())
    return digest.hexdigest()[:16]


def save_adapter(adapted: PeftModel, directory: str | Path, base_fingerprint: str | None) -> None:
    """Write the adapter and what its base was. Under ZeRO-3 call it where weights are whole."""
    adapted.save_pretrained(str(directory), save_embedding_layers=_WITH_EMBEDDINGS)
    record = {"base": base_of(directory), "fingerprint": base_fingerprint}
    (Path(directory) / BASE_FILE).write_text(json.dumps(record) + "\n")


def base_of(directory: str | Path) -> str:
    """Return where the base of an adapter's directory is. Raises InputError if it does not say."""
    file = Path(directory) / CONFIG_FILE
    try:
        base = json.loads(file.read_text())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"adapter {file}: names no base model: {error}") from error
    if not isinstance(base, str) or not base:
        raise InputError(f"adapter {file}: names no base model (base_model_name_or_path)")
    return base


def load_adapter(base: PreTrainedModel, directory: str) -> PreTrainedModel:
    """Return the base with the adapter of a directory working in it. Raises InputError for an
    adapter that was trained on another base, or is damaged.
    """
    return load_adapted(base, directory).get_base_model()


def load_adapted(base: PreTrainedModel, directory: str) -> PeftModel:
    """Load the adapter of a directory on its base, as peft wraps the two. Raises InputError."""
    check_base(base, directory)
    try:
        config = PeftConfig.from_pretrained(str(directory))
        if config.is_prompt_learning:
            raise InputError(
                f"adapter {directory}: is of type {config.peft_type.value}, which puts tokens of "
                "its own before every prompt: only adapters on layers (such as LoRA) are served"
            )
        adapted = PeftModel.from_pretrained(base, directory)
        with safe_open(Path(directory) / WEIGHTS_FILE, "pt") as file:
            saved = set(file.keys())
    except InputError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        raise _does_not_fit(directory, error) from error
    own = set(get_peft_model_state_dict(adapted, save_embedding_layers=_WITH_EMBEDDINGS))
    # peft itself writes the embeddings along where they are adapted.
    whole = set(get_peft_model_state_dict(adapted, save_embedding_layers=True))
    if not own <= saved <= whole:
        raise _does_not_fit(directory, "it adapts other modules")
    return adapted


def restore_adapter(adapted: PeftModel, directory: str | Path) -> None:
    """Read the adapter's weights back into a model that has the same adapter. Raises InputError."""
    try:
        with safe_open(Path(directory) / WEIGHTS_FILE, "pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        result = set_peft_model_state_dict(adapted, weights)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _does_not_fit(directory, error) from error
    if result.unexpected_keys:
        raise _does_not_fit(directory, "it adapts other modules")


def check_base(base: PreTrainedModel, directory: str | Path) -> None:
    """Raises InputError for a base that is not the one that an adapter was trained on."""
    file = Path(directory) / BASE_FILE
    if not file.is_file():
        return
    try:
        wanted = json.loads(file.read_text())["fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from error
    own = fingerprint(base)
    if wanted and own and wanted != own:
        raise InputError(
            f"adapter {directory}: was trained on another base than {base_of(directory)} holds now "
            f"(fingerprint {wanted}, here {own}); put the right one there, or name it in "
            f"{CONFIG_FILE}"
        )


def _does_not_fit(directory: str | Path, error: object) -> InputError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return InputError(f"adapter {directory}: does not fit its base {base_of(directory)}: {reason}")
