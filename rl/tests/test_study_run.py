"""A whole study, both arms of it, by the command behind scripts/study.sh."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from evaluation.study.layout import Place, read_measured
from rl.testing import PATH, ROOT, SMALL, command


def _settings(start, directory):
    """A file of a study with a tiny start and two steps of each arm."""
    sft, rl = directory / "sft.yaml", directory / "rl.yaml"
    sft.write_text("num_dialogues: 16\nnum_steps: 2\nbatch_size: 4\n")
    rl.write_text("{}\n")
    arms = [
        {"name": "sft", "package": "sft", "config": str(sft), "every": 1},
        {
            "name": "rl",
            "package": "rl",
            "config": str(rl),
            "options": [*SMALL, "--num_updates=3"],
            "every": 1,
        },
    ]
    study = {
        "start_model": str(start),
        "suites": "rl/tests/small_task.yaml",
        "known_arms": arms,
        "seeds": 1,
        "eval": {"episodes": 3, "decoding": ["sampled"], "verify_iter": 1, "max_new_tokens": 8},
        "end_verify_iter": 2,
        "end_episodes": 4,
        "divergence_episodes": 2,
        "processes": "1",
        "run_dir": str(directory / "study"),
    }
    file = directory / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    return file


@pytest.fixture(scope="module")
def study(start, tmp_path_factory):
    """A study that was asked to end while its second arm trained, and then run again."""
    directory = tmp_path_factory.mktemp("study")
    settings = _settings(start, directory)
    arguments = [sys.executable, "-m", "evaluation.study", f"--config={settings}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": PATH}
    first = subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    account = directory / "study" / "steps.jsonl"
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        if account.is_file() and "evaluate sft" in account.read_text():
            break
        time.sleep(0.2)
    first.send_signal(signal.SIGTERM)
    printed, _ = first.communicate(timeout=300)
    again = command("evaluation.study", f"--config={settings}")
    return directory / "study", settings, first.returncode, printed, again


def test_an_interrupted_study_goes_on(study):
    directory, _, code, printed, again = study
    assert code == 143
    assert "run the study again to go on" in printed
    assert again.returncode == 0, again.stderr
    steps = [json.loads(line) for line in (directory / "steps.jsonl").read_text().splitlines()]
    kinds = [step["kind"] for step in steps]
    # Nothing that was done before the signal was done again.
    assert kinds == ["evaluate the start", "train sft", "evaluate sft", "train rl", "evaluate rl"]


def test_what_a_study_leaves(study):
    directory, _, _, _, again = study
    results = json.loads((directory / "results.json").read_text())
    assert results["finished"]
    updates = {"sft": [0, 1, 2], "rl": [0, 1, 2, 3]}
    assert {arm: results["arms"][arm]["updates"] for arm in updates} == updates
    for arm in ("sft", "rl"):
        flops = results["arms"][arm]["flops"]
        assert flops[0] == 0
        assert flops == sorted(set(flops))
        assert len(results["curves"][arm]["sampled"]["rule_ood"]["first_reply"]) == len(flops)
    assert len(results["replies"]["rl"]["sampled"]["id"]) == 2
    assert all(point["forward_per_reply"] > -1e-6 for point in results["divergence"])
    assert len(results["divergence"]) == 5
    seed = directory / "seed0"
    played = {
        update: read_measured(Place(directory, 0, "rl").measured(update)).records["sampled"]["id"]
        for update in (1, 3)
    }
    assert (len(played[1]), len(played[3])) == (3, 4)
    assert [r.env_seed for r in played[1]] == [r.env_seed for r in played[3][:3]]
    files = seed.glob("rl/run/checkpoints/*/training/optimizer-*")
    states = {path.parents[1].name for path in files}
    assert states == {"update-000002", "update-000003"}
    assert "rule OOD, at equal compute" in again.stdout
    assert {file.name for file in (directory / "figures").iterdir()} >= {"curves.png"}
    assert "<html" in (directory / "report.html").read_text()


def test_jobs_and_bad_input(study):
    _, settings, *_ = study
    jobs = command("evaluation.study", f"--config={settings}", "--list_jobs")
    assert jobs.stdout.split() == ["seed0/start", "seed0/sft", "seed0/rl"]
    for change, word in (
        ("--eval.episodes=4", "name another --run_dir"),
        ("--arms=[dpo]", "must be one of sft, rl"),
    ):
        done = command("evaluation.study", f"--config={settings}", change)
        assert done.returncode == 2
        assert word in done.stderr
        assert "Traceback" not in done.stderr
