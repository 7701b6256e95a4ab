"""Requests to end a run."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch
from accelerate import Accelerator

from gym_command.launch import ASKING


class StopRequest:
    """Records whether the run has been asked to end, within `with stop`: by Ctrl-C, or by SIGTERM,
    with which Slurm announces the end of a job's time.

    While `immediately` is True, all progress is in a checkpoint and the process exits at once.
    Otherwise the training loop checks for the request and exits after saving.
    """

    def __init__(self) -> None:
        self.received = 0
        """The number of the signal, 0 if there was none."""
        self.immediately = True
        self._before: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """Return the exit code by shell convention: 143 for SIGTERM, 130 for Ctrl-C."""
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
            if os.environ.get("RANK", "0") == "0":  # print() may be what was interrupted
                os.write(2, b"\nInterrupted. Resume with --resume.\n")
            raise SystemExit(self.exit_code)

    def agreed(self, accelerator: Accelerator) -> bool:
        """Return whether any rank had been asked to end; every rank calls it together and gets the
        same answer. A request that comes in between is kept for the next call.
        """
        own = torch.tensor([float(self.received)], device=accelerator.device)
        asked = int(accelerator.gather(own).max())
        if asked:
            self.received = asked
        return asked > 0
