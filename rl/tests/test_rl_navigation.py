"""RL on routes: episodes of many dialogues, in words and by street views, from start to table."""

import json

import pytest

from gym_policy import Renderer
from gym_policy.models.load import save_renderer
from rl.testing import SMALL, THAT_SEE, command, tiny_llama, tiny_tokenizer

TASK = """
task: routes
env_kwargs: {on_failure: go_on, num_routes: 20, max_legs: 2, straight_line_length: 2}
suites:
  - {name: id, env: {id: gym_virl/Navigation-v0, kwargs: {split: train}}}
  - name: cities
    shift: visual
    env: {id: gym_virl/Navigation-v0, kwargs: {city: [lagos, london]}}
"""
ROUTES = [
    "--env.id=gym_virl/Navigation-v0",
    "--env.kwargs.split=train",
    "--env.kwargs.max_legs=2",
    "--env.kwargs.on_failure=go_on",
    "--num_updates=1",
    "--num_envs=2",
    "--epochs=1",
    "--eval_every=0",
    "--eval.episodes=2",
    "--eval.decoding=[sampled]",
]


@pytest.mark.parametrize("views", [False, True], ids=["words", "views"])
def test_a_run_on_routes(views, tmp_path):
    tokenizer = tiny_tokenizer(with_images=views)
    model, flags, task = tmp_path / "model", [*SMALL, *ROUTES], TASK
    if views:
        make_model, make_processor = THAT_SEE["mllama"]
        make_model(tokenizer).save_pretrained(model)
        save_renderer(Renderer(tokenizer, make_processor(tokenizer)), model)
        flags += ["--env.kwargs.language_only=false", "--env.kwargs.resolution=24"]
        task = TASK.replace("{on_failure", "{language_only: false, resolution: 24, on_failure")
    else:
        tiny_llama(tokenizer).save_pretrained(model)
        tokenizer.save_pretrained(model)
    (tmp_path / "task.yaml").write_text(task)
    run = tmp_path / "run"
    flags += [f"--model={model}", f"--run_dir={run}", f"--task={tmp_path / 'task.yaml'}"]
    done = command("rl.train", *flags)
    assert done.returncode == 0, done.stderr
    (metrics,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert metrics["logprob_gap"] < 1e-4
    assert metrics["turns"] > metrics["episodes"] * 4  # two tries at each of several positions
    assert ("recognition" in metrics) is views
    table = (run / "table.txt").read_text()
    for block in (
        "first reply, turn positions",
        "until the first failed position",
        "whole episode",
    ):
        assert block in table
    summary = json.loads((run / "summary.json").read_text())
    metrics = summary["checkpoints"]["update-000001"]["sampled"]["id"]["metrics"]
    assert {"first_reply/turn", "first_reply/forward", "first_reply/stop"} <= set(metrics)
    played = json.loads((run / "dialogues.jsonl").read_text().splitlines()[0])["dialogues"]
    assert len(played) > 2
    assert "O_1: " in played[1][0]["content"]
