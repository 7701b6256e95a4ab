"""A run that is asked to end."""

from __future__ import annotations

import signal

import torch
from accelerate import Accelerator


class StopRequest:
    """Whether the run has been asked to end, by SIGTERM: Slurm's notice of the end of its time.

    `immediately` is True while there is nothing that a checkpoint does not hold already; the
    process then leaves at once, otherwise where the training loop asks.
    """

    EXIT_CODE = 128 + signal.SIGTERM

    def __init__(self) -> None:
        self.received = False
        self.immediately = True

    def install(self) -> None:
        """Take over SIGTERM."""
        signal.signal(signal.SIGTERM, self._receive)

    def _receive(self, *_: object) -> None:
        self.received = True
        if self.immediately:
            raise SystemExit(self.EXIT_CODE)

    def agreed(self, accelerator: Accelerator) -> bool:
        """Whether any rank has been asked; every rank asks together and gets the same answer."""
        mine = torch.tensor([float(self.received)], device=accelerator.device)
        return bool(accelerator.gather(mine).max() > 0)
