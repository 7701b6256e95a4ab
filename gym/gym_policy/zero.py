"""DeepSpeed's ZeRO-3 keeps a part of every weight on each rank; here they come together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def is_partitioned(model: nn.Module) -> bool:
    """Whether weights of the model are spread over the ranks (ZeRO-3)."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """All weights on every rank, once, for as long as many forward passes need them, as sampling
    does. `model` may be a DeepSpeed engine, or a model that from_pretrained has partitioned. All
    ranks enter together. Does nothing where weights are whole anyway.

    The engine would otherwise gather every layer's weights anew for each sampled token, and its
    ranks would have to sample the same number of tokens.
    """
    if not is_partitioned(model):
        yield
        return
    from deepspeed import zero

    offload = getattr(getattr(model, "optimizer", None), "parameter_offload", None)
    if offload is not None:  # its hooks would partition a layer again after each forward pass
        offload.partition_all_parameters()
        offload._remove_module_hooks()
        offload.forward_hooks.clear()
        offload.backward_hooks.clear()
    try:
        with zero.GatheredParameters(list(model.parameters())):
            yield
    finally:
        if offload is not None:
            offload.setup_zero_stage3_hooks()
