"""A run whose replies come from a server."""

import json

import pytest

from gym_dialogue import InputError
from gym_policy import load_model
from gym_policy.samplers.testing import running_engine
from rl.config import RLConfig
from rl.testing import SMALL, command
from rl.train import train


@pytest.mark.parametrize("processes", [1, 2])
def test_run_by_a_server_learns_from_the_newest_weights(processes, start, tmp_path):
    run = tmp_path / "run"
    with running_engine(load_model(str(start))) as server:
        flags = [f"--model={start}", f"--run_dir={run}", "--sampler=vllm", *SMALL]
        done = command("rl.train", *flags, f"--engines=[{server.address}]", processes=processes)
        assert done.returncode == 0, done.stderr
        assert server.version == "1"  # the weights that the second update was sampled with
        assert server.calls.count("/collective_rpc") == 2
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in metrics] == [1, 2]
    assert all(row["logprob_gap"] < 1e-4 for row in metrics)
    assert not list((run / "weights").glob("version-0"))


def test_run_without_a_server_is_refused(start, tmp_path):
    config = RLConfig(model=str(start), run_dir=str(tmp_path / "run"), sampler="vllm")
    with pytest.raises(InputError, match="name the servers with --engines"):
        train(config)
