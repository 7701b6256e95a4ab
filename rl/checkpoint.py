"""Checkpoints of a run: directories that from_pretrained and every command here can read, with what
a run needs to resume.

The folder itself holds the model alone; the value head, the optimizer's state and the rest of the
training state are in `training/` (`gym_command.checkpoints.training_file`). Checkpoints of earlier
versions have these beside the model, and are read all the same.

A checkpoint that can be seen is whole: it is written under another name, and SHA256SUMS lists every
file in it. The training state is that of the whole model by parameter name, so that a run can go on
with another number of ranks, or another ZeRO stage.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from gym_command.checkpoints import (
    TRAINING_DIR,
    training_file,
)
from gym_command.run_dir import RunDir
from gym_dialogue import InputError
from gym_policy import Renderer
from gym_policy.distributed import whole_weights
from gym_policy.models.adapter import restore_adapter, save_adapter
from gym_policy.models.load import save_renderer
from gym_policy.training import checkpoint
from gym_policy.training.checkpoint import begin, damage, listed, publish, take_out, writing
from rl.actor_critic import ActorCritic

STATE_FILE = "training_state.json"
_STATES = "optimizer-*.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_MASTER = "master"  # DeepSpeed's float32 copy of a weight
_SHARD_BYTES = 4 * 2**30


def save_checkpoint(
    run_dir: str | Path,
    state: dict[str, Any],
    accelerator: Accelerator,
    engine: nn.Module,
    optimizer: Any,
    renderer: Renderer,
) -> Path:
    """Write model (or adapter), tokenizer and image processor, value head, and the state to resume
    from: `state`, plain data with at least `update`, and the optimizer's. All ranks call it
    together.

    Raises InputError if the disk does not take it; earlier checkpoints are untouched then.
    """
    final = RunDir(run_dir).checkpoint(state["update"])
    inner: ActorCritic = accelerator.unwrap_model(engine)
    is_main = accelerator.is_main_process
    with writing(final) as partial:
        if is_main:
            begin(partial)
        with whole_weights(engine):
            if is_main:
                if inner.adapter is None:
                    inner.model.save_pretrained(partial)
                else:
                    save_adapter(inner.adapter, partial, inner.base_fingerprint)
                save_renderer(renderer, partial)
                inner.save_value_head(partial)
        _save_optimizer(partial / TRAINING_DIR if is_main else None, inner, optimizer)
        if is_main:
            training_file(partial, STATE_FILE).write_text(json.dumps(state, indent=1) + "\n")
            publish(partial, final)
    accelerator.wait_for_everyone()
    return final


def restore_checkpoint(
    directory: str | Path, accelerator: Accelerator, engine: nn.Module, optimizer: Any
) -> None:
    """Put the weights that were trained, and the optimizer's state, back into a model and optimizer
    of a run that resumes. Raises InputError where they do not fit.
    """
    inner: ActorCritic = accelerator.unwrap_model(engine)
    saved: dict[str, Path] = {}
    for file in _state_files(Path(directory)):
        with safe_open(file, "pt") as part:
            saved |= dict.fromkeys(part.keys(), file)
    if not saved:  # the initial checkpoint: nothing has been learned
        return
    wanted = {f"{name}:{key}" for name, _ in _trained(inner) for key in _MOMENTS}
    if wanted != {key for key in saved if not key.endswith(f":{_MASTER}")}:
        raise InputError(
            f"checkpoint {directory}: its optimizer state is that of other parameters than this "
            "configuration trains; resume with the run's own settings"
        )
    step = read_state(directory)["optimizer_step"]
    _make_states(optimizer, step)
    for name, parameter in _trained(inner):
        for key in (*_MOMENTS, _MASTER):
            if f"{name}:{key}" in saved:
                with safe_open(saved[f"{name}:{key}"], "pt") as part:
                    _set_full(optimizer, parameter, key, part.get_tensor(f"{name}:{key}"))


def restore_trained_adapter(inner: ActorCritic, directory: str | Path) -> None:
    """Read the adapter's weights of a checkpoint, before the model is handed to accelerate."""
    if inner.adapter is not None:
        restore_adapter(inner.adapter, directory)


def optimizer_step(optimizer: Any) -> int:
    """Return how many steps the optimizer has taken."""
    steps = [int(state["step"]) for state in _inner(optimizer).state.values() if "step" in state]
    return max(steps, default=0)


def newest_whole(run_dir: str | Path) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint that is as it was written, with what a run needs to resume, and
    a line on each newer one that is not.
    """
    return checkpoint.newest_whole(run_dir, _fault)


def read_state(directory: str | Path) -> dict[str, Any]:
    """Read the plain part of a checkpoint's training state. Raises OSError, and ValueError for a
    file that is none.
    """
    state = json.loads(training_file(directory, STATE_FILE).read_text())
    numbers = {"update": int, "flops": int | float, "optimizer_step": int}
    if not isinstance(state, dict) or not all(
        isinstance(state.get(key), kind) and state[key] >= 0 for key, kind in numbers.items()
    ):
        raise ValueError(f"{STATE_FILE} is not that of a run")
    return state


def prune(run_dir: str | Path, keep_last: int, keep_states: int = 0) -> None:
    """Remove checkpoints beyond the initial one, the newest `keep_last` and the best one (by
    `score` in its state; the earliest of equals), and the optimizer's state of all that are kept
    but the newest `keep_states`. 0 keeps all.
    """
    if keep_last:
        RunDir(run_dir).prune(keep_last, _score)
    if keep_states:
        for path in RunDir(run_dir).saved_checkpoints()[:-keep_states]:
            _remove_states(path)


def _remove_states(path: Path) -> None:
    """Take the optimizer's state out of a checkpoint."""
    take_out(path, {file.relative_to(path).as_posix() for file in _state_files(path)})


def _state_files(checkpoint: Path) -> list[Path]:
    """Return the files of the optimizer's state."""
    return sorted(f for place in (TRAINING_DIR, ".") for f in (checkpoint / place).glob(_STATES))


def _score(path: Path) -> float | None:
    try:
        score = json.loads(training_file(path, STATE_FILE).read_text())["score"]
        return score if isinstance(score, int | float) and math.isfinite(score) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _trained(inner: ActorCritic) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in inner.named_parameters() if p.requires_grad]


def _inner(optimizer: Any) -> torch.optim.Optimizer:
    """Return the torch optimizer inside the wrappers of accelerate and DeepSpeed."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def _is_deepspeed(optimizer: Any) -> bool:
    return hasattr(getattr(optimizer, "optimizer", None), "optimizer")


def _save_optimizer(directory: Path | None, inner: ActorCritic, optimizer: Any) -> None:
    """Write moments (and master copies) in shards; ranks without a directory only take part in
    gathering them.
    """
    if not optimizer_step(optimizer):
        return
    shard: dict[str, torch.Tensor] = {}
    number = 0
    for key, tensor in _full_states(inner, optimizer):
        if directory is None:
            continue
        shard[key] = tensor.detach().cpu().contiguous()
        if sum(t.numel() * t.element_size() for t in shard.values()) > _SHARD_BYTES:
            save_file(shard, directory / f"optimizer-{number:05d}.safetensors")
            shard, number = {}, number + 1
    if shard and directory is not None:
        save_file(shard, directory / f"optimizer-{number:05d}.safetensors")


def _full_states(inner: ActorCritic, optimizer: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if not _is_deepspeed(optimizer):
        states = _inner(optimizer).state
        for name, parameter in _trained(inner):
            for key in _MOMENTS:
                yield f"{name}:{key}", states[parameter][key]
        return
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    _link_states(optimizer)
    for name, parameter in _trained(inner):
        for key in _MOMENTS:
            yield f"{name}:{key}", safe_get_full_optimizer_state(parameter, key)
        yield f"{name}:{_MASTER}", safe_get_full_fp32_param(parameter)


def _make_states(optimizer: Any, step: int) -> None:
    """Make the states that Adam makes in its first step, which a resumed run does not wait for."""
    torch_optimizer = _inner(optimizer)
    outer: Any = getattr(optimizer, "optimizer", None)
    partitions = [p for group in torch_optimizer.param_groups for p in group["params"]]
    if hasattr(outer, "fp32_partitioned_groups_flat"):  # ZeRO-3 hands them over one by one
        partitions = outer.fp32_partitioned_groups_flat
    for parameter in partitions:
        is_torch = type(torch_optimizer).__module__.startswith("torch.")
        torch_optimizer.state[parameter] = {
            "step": torch.tensor(float(step)) if is_torch else step,
            **{key: torch.zeros_like(parameter.data) for key in _MOMENTS},
        }
    _link_states(optimizer)


def _link_states(optimizer: Any) -> None:
    """Let DeepSpeed's ZeRO-2 find the moments of every parameter group: it looks once, after the
    first group's first step, when the other groups have none yet.
    """
    outer: Any = getattr(optimizer, "optimizer", None)
    if hasattr(outer, "_lazy_init_hp_params_optimizer_state"):
        outer._hp_optimizer_states_linked = False
        outer._lazy_init_hp_params_optimizer_state()


def _set_full(optimizer: Any, parameter: nn.Parameter, key: str, value: torch.Tensor) -> None:
    if not _is_deepspeed(optimizer):
        if key == _MASTER:
            parameter.data.copy_(value)
        else:
            _inner(optimizer).state[parameter][key].copy_(value)
        return
    import deepspeed.utils as ds

    value = value.to(parameter.device)
    where = "full"
    if hasattr(parameter, "ds_tensor"):  # ZeRO-3: `full` forgets the last rank's padding
        where, size = "local", parameter.ds_tensor.ds_numel
        rank = torch.distributed.get_rank()
        local = value.new_zeros(size)
        part = value.flatten()[rank * size : (rank + 1) * size]
        local[: len(part)] = part
        value = local
    if key == _MASTER:
        getattr(ds, f"safe_set_{where}_fp32_param")(parameter, value)
    else:
        getattr(ds, f"safe_set_{where}_optimizer_state")(parameter, value, key)


def _fault(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None."""
    try:
        sums = listed(path)
        has_states = any(PurePath(name).match(_STATES) for name in sums)
        if read_state(path)["optimizer_step"] and not has_states:
            return "was kept without the optimizer's state (keep_states)"
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"
    return damage(path)
