"""A run whose replies come from a server."""

import json
import shutil

import pytest

from evaluation.evaluate import CommandConfig
from evaluation.evaluate import main as evaluate
from evaluation.play import EvalConfig
from gym_dialogue import InputError
from gym_policy import load_model
from gym_policy.samplers.testing import running_engine
from rl.config import RLConfig
from rl.testing import ROOT, SMALL, command, tiny_llama, tiny_tokenizer
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
    assert not (run / "weights").exists()  # of use to the servers only


def test_run_without_a_server_is_refused(start, tmp_path):
    config = RLConfig(model=str(start), run_dir=str(tmp_path / "run"), sampler="vllm")
    with pytest.raises(InputError, match="name the servers with --engines"):
        train(config)


def test_evaluation_by_a_server_has_the_numbers_of_each_checkpoint(start, tmp_path):
    other = tmp_path / "other"
    tiny_llama(tiny_tokenizer(), seed=1).save_pretrained(other)
    tiny_tokenizer().save_pretrained(other)
    task = str(ROOT / "rl" / "tests" / "small_task.yaml")
    settings = EvalConfig(episodes=6, decoding=["greedy"], verify_iter=2, max_new_tokens=8)
    own, engines = tmp_path / "own", tmp_path / "engines"
    evaluate(CommandConfig([str(start), str(other)], task, run_dir=str(own), eval=settings))
    with running_engine(load_model(str(start))) as server:
        by_server = CommandConfig(
            [str(start), str(other)],
            task,
            run_dir=str(engines),
            eval=settings,
            sampler="vllm",
            engines=[server.address],
        )
        evaluate(by_server)
        assert server.calls.count("/collective_rpc") == 2
        assert server.version == "other"
    assert (engines / "turns.jsonl").read_text() == (own / "turns.jsonl").read_text()
    assert not (engines / "weights").exists()


def test_run_that_samples_ahead_is_one_version_behind_and_resumes_the_same(start, tmp_path):
    def run(name, *flags):
        with running_engine(load_model(str(start))) as server:
            settings = [
                f"--model={start}",
                f"--run_dir={tmp_path / name}",
                "--sampler=vllm",
                *SMALL,
            ]
            settings += ["--overlap=1", "--save_every=2", "--eval_every=0", "--eval_ends=false"]
            done = command("rl.train", *settings, *flags, f"--engines=[{server.address}]")
            assert done.returncode == 0, done.stderr
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    whole = run("whole", "--num_updates=4", "--lr_horizon=4")
    # A checkpoint is due after the second: the third waits for it.
    assert [row["versions_behind"] for row in whole] == [0, 1, 0, 1]
    assert whole[0]["logprob_gap"] < 1e-4 < whole[1]["logprob_gap"]
    checkpoints = tmp_path / "whole" / "checkpoints"
    for late in ("update-000004", "update-000003"):
        shutil.rmtree(checkpoints / late, ignore_errors=True)
    resumed = run("whole", "--num_updates=4", "--lr_horizon=4", "--resume")
    timeless = [{k: v for k, v in row.items() if "seconds" not in k} for row in resumed]
    assert timeless == [{k: v for k, v in row.items() if "seconds" not in k} for row in whole]


def test_sampling_ahead_is_for_servers(start):
    with pytest.raises(InputError, match="overlap=1: is for sampler=vllm"):
        train(RLConfig(model=str(start), overlap=1))
