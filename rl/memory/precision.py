"""Bytes per number of weights, adapters and computation."""

from __future__ import annotations

from dataclasses import dataclass

from rl.config import RLConfig
from rl.devices import Launch


@dataclass(frozen=True)
class Precision:
    """Bytes per number."""

    base: int
    added: int
    compute: int
    residual: int
    autocast: bool = False


def precision_of(config: RLConfig, launch: Launch) -> Precision:
    """Return the precisions in which a run stores and computes.

    Under DeepSpeed, `dtype: bfloat16` applies to the whole model. With adapters it applies to the
    frozen base only. Otherwise the weights stay float32 and computation is autocast.
    """
    if config.dtype == "float32":
        return Precision(base=4, added=4, compute=4, residual=4)
    if launch.zero_stage is not None:
        return Precision(base=2, added=2, compute=2, residual=2)
    if config.lora.rank:
        return Precision(base=2, added=4, compute=2, residual=2)
    return Precision(base=4, added=4, compute=2, residual=4, autocast=True)
