"""The split that holds puzzles out of training, the same for all time."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Literal

Split = Literal["train", "heldout", "all"]

HELDOUT_SHARE = 0.1


@lru_cache(maxsize=65536)
def is_held_out(salt: str, puzzle: str, share: float = HELDOUT_SHARE) -> bool:
    """Return whether a puzzle of this name is one of the `share` held out, decided by a hash of the
    name: what a share holds out, a larger one does, too. The `salt` is the task's own; another one
    is another split.
    """
    digest = hashlib.blake2b(f"{salt}:{puzzle}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def belongs(held_out: bool, split: Split) -> bool:
    """Return whether a puzzle that is, or is not, held out belongs to a split."""
    return split == "all" or held_out == (split == "heldout")
