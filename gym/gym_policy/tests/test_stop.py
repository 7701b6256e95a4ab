"""Requests to end a run."""

import signal

import torch
from accelerate import Accelerator

from gym_policy.training.stop import StopRequest


class _AskedMeanwhile(Accelerator):
    """Gathers from its one rank, and is asked to end while it does."""

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        signal.raise_signal(signal.SIGTERM)
        return tensor


def test_request_that_comes_while_ranks_agree_is_not_lost():
    with StopRequest() as stop:
        stop.immediately = False
        assert not stop.agreed(_AskedMeanwhile(cpu=True))
        assert stop.agreed(Accelerator(cpu=True))
        assert stop.exit_code == 128 + signal.SIGTERM
