"""A run that is asked to end."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch
from accelerate import Accelerator

from gym_command.launch import ASKING


class StopRequest:
    """Whether the run has been asked to end: by SIGTERM, Slurm's notice of the end of its time, or
    by Ctrl-C. It listens within `with stop`.

    `immediately` is True while there is nothing that a checkpoint does not hold already; the
    process then leaves at once, otherwise where the training loop asks.
    """

    def __init__(self) -> None:
        self.received = 0
        """The number of the signal."""
        self.immediately = True
        self._before: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """What the shell makes of the signal: 143, or 130 for Ctrl-C."""
        return 128 + self.received

    def __enter__(self) -> StopRequest:
        self._before = {number: signal.signal(number, self._receive) for number in ASKING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: object) -> None:
        self.received = number
        if self.immediately:
            if os.environ.get("RANK", "0") == "0":  # print may be what was interrupted
                os.write(2, b"\nAsked to end; go on with --resume\n")
            raise SystemExit(self.exit_code)

    def agreed(self, accelerator: Accelerator) -> bool:
        """Whether any rank has been asked; every rank asks together and gets the same answer."""
        mine = torch.tensor([float(self.received)], device=accelerator.device)
        self.received = int(accelerator.gather(mine).max())
        return self.received > 0
