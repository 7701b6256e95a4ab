"""Running out of memory: how it is told from other errors, and giving back what is not in use."""

from __future__ import annotations

import torch
from accelerate.utils.memory import should_reduce_batch_size


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether memory has run out: a GPU's allocator raises a type of its own for it, a CPU's
    is known by its message.
    """
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def release_memory() -> None:
    """Give back what the allocator holds and no tensor uses, so that it is not in small pieces."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
