"""How a run will be spread over devices, read before anything is started."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from gym_dialogue import InputError


@dataclass(frozen=True)
class Launch:
    """How a run is spread over processes, one per device."""

    processes: int = 1
    machines: int = 1
    on_cpu: bool = False
    zero_stage: int | None = None
    """DeepSpeed's ZeRO stage; None is without DeepSpeed."""
    offload_optimizer: str = "none"
    offload_parameters: str = "none"
    """Where DeepSpeed keeps them: none (the device), cpu (the host) or nvme."""
    bucket: int = 500_000_000
    """Numbers in the buffer in which DeepSpeed reduces gradients; 5e8 is its default."""

    def __str__(self) -> str:
        text = f"{self.processes} x {'CPU' if self.on_cpu else 'GPU'}"
        text += f" on {self.machines} machines" if self.machines > 1 else ""
        if self.zero_stage is None:
            return text
        text += f" under DeepSpeed ZeRO-{self.zero_stage}"
        for what, where in (
            ("optimizer", self.offload_optimizer),
            ("parameters", self.offload_parameters),
        ):
            text += f", {what} on {where}" if where != "none" else ""
        return text


def read_launch(file: str | None) -> Launch:
    """Return the launch that an accelerate configuration file describes; without one, the processes
    that have been started (WORLD_SIZE). Raises InputError for a file that cannot be planned.
    """
    if not file:
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        return Launch(processes, on_cpu=not torch.cuda.is_available())
    try:
        settings = yaml.safe_load(Path(file).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"ACCELERATE_CONFIG={file}: cannot be read: {reason}") from error
    if not isinstance(settings, dict):
        raise InputError(f"ACCELERATE_CONFIG={file}: must hold keys and values")
    kind = str(settings.get("distributed_type", "NO")).upper()
    if kind not in ("NO", "MULTI_CPU", "MULTI_GPU", "DEEPSPEED"):
        raise InputError(
            f"ACCELERATE_CONFIG={file}: distributed_type {kind} is not planned for; it must be NO, "
            "MULTI_CPU, MULTI_GPU or DEEPSPEED"
        )
    launch = Launch(
        processes=_whole(settings, "num_processes", 1, file),
        machines=_whole(settings, "num_machines", 1, file),
        on_cpu=kind == "MULTI_CPU" or bool(settings.get("use_cpu")),
    )
    return _with_deepspeed(launch, settings, file) if kind == "DEEPSPEED" else launch


def _with_deepspeed(launch: Launch, settings: dict[str, Any], file: str) -> Launch:
    """Return the launch with the keys of `deepspeed_config`, or of the DeepSpeed file that it
    names.
    """
    keys = settings.get("deepspeed_config") or {}
    own = keys.get("deepspeed_config_file")
    if own:
        try:
            zero = json.loads(Path(own).read_text()).get("zero_optimization") or {}
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"{file}: deepspeed_config_file {own}: {error}") from error
        bucket = zero.get("reduce_bucket_size", launch.bucket)
        keys = {
            "zero_stage": zero.get("stage", 0),
            "offload_optimizer_device": (zero.get("offload_optimizer") or {}).get("device"),
            "offload_param_device": (zero.get("offload_param") or {}).get("device"),
        }
        if isinstance(bucket, int | float):  # "auto" is decided when the run starts
            launch = replace(launch, bucket=int(bucket))
    stage = _whole(keys, "zero_stage", 2, file, least=0)
    if stage > 3:
        raise InputError(f"{file}: zero_stage {stage}: must be 0, 1, 2 or 3")
    return replace(
        launch,
        zero_stage=stage,
        offload_optimizer=str(keys.get("offload_optimizer_device") or "none"),
        offload_parameters=str(keys.get("offload_param_device") or "none"),
    )


def _whole(settings: dict[str, Any], key: str, default: int, file: str, least: int = 1) -> int:
    value = settings.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{file}: {key}={value!r}: must be a whole number of at least {least}")
    return value
