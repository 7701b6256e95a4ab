"""The device that the benchmark runs on, and models there."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from gym_policy import load_model

Model = TypeVar("Model", bound=nn.Module)


def device_name() -> str:
    """Return `cuda` if there is a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def move(model: Model, device: str | torch.device) -> Model:
    """Move a model to a device and return it."""
    nn.Module.to(model, device)  # transformers' own `to` has lost its type to a decorator
    return model


def load_on_device(path: str) -> PreTrainedModel:
    """Load a checkpoint onto the device. Raises InputError as load_model does."""
    return move(load_model(path), device_name())


def processor() -> str:
    """Return the processor's name as Linux reports it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
