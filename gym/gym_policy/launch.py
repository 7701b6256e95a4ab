"""Runs a command of this project as several processes on one machine.

`python -m gym_policy.launch 2 rl.train --config ...` does what torchrun does, but lets a bad input
end as the one line that the command prints, without the launcher's own report under it. Larger
launches go through `accelerate launch`.
"""

from __future__ import annotations

import logging
import os
import sys
import uuid

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def launch(processes: int, module: str, arguments: list[str]) -> int:
    """Run `python -m module arguments` as ranks 0 .. processes - 1; the exit code of the command.

    Each process computes with one thread unless OMP_NUM_THREADS says otherwise.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", module, *arguments)
    except ChildFailedError as error:
        return max(failure.exitcode for failure in error.failures.values()) or 1
    return 0


if __name__ == "__main__":
    sys.exit(launch(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
