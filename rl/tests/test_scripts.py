"""The launchers: their syntax, their choices, and how they refuse bad input."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))

needs_environment = pytest.mark.skipif(
    not (ROOT / ".venv" / "made-from").is_file(), reason="the launchers have made no .venv here"
)


def _bash(*arguments):
    return subprocess.run(
        ["bash", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_syntax_and_header(script):
    assert _bash("-n", str(script)).returncode == 0
    text = script.read_text()
    assert script.name == "env.sh" or all(
        word in text for word in ("# Purpose:", "# Usage:", "set -euo pipefail")
    )


@needs_environment
@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["train_rl_gp_l.sh", "huge"], "scale huge: must be one of paper small tiny"),
        (["train_rl_gp_l.sh", "--model=x/y", "--lr=fast"], "lr"),
        (["eval_ood.sh", "/nowhere/x"], "no such directory"),
        (["eval_api.sh", "--base_url=host"], "must be the root of an OpenAI-compatible API"),
        (["across_seeds.sh", "/nowhere"], "finished run"),
        (["download.sh", "gp_l"], "must be one of"),
        (["bench.sh", "peer", "speed"], "section speed: must be one of env navigation"),
        (["bench.sh", "env", "--repeats=0"], "repeats=0: must be at least 1"),
        (["train_rl_gp_l.sh", "paper", "--resume"], "there is no run under runs/rl-gp_l-paper-"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, word):
    done = _bash(f"scripts/{arguments[0]}", *arguments[1:])
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert word in errors[0]
    assert "Traceback" not in done.stderr


@needs_environment
def test_sections_of_the_benchmark_are_named_as_they_are_said():
    done = _bash("scripts/bench.sh", "end-to-end", "memory", "--model=/nowhere/x", "--repeats=0")
    assert done.stderr.splitlines()[-1] == "error: repeats=0: must be at least 1"
    done = _bash("scripts/bench.sh", "end-to-end", "--model=/nowhere/x")
    assert done.returncode == 2
    assert "/nowhere/x: no such directory" in done.stderr


_SRUN = """#!/usr/bin/env bash
shift  # --kill-on-bad-exit
printf '%s\n' "$NUM_MACHINES $NUM_PROCESSES $MAIN_PROCESS_IP $MAIN_PROCESS_PORT $ACCELERATE_CONFIG"
printf '%s\n' "${@:4}"
exit 143
"""
_SCONTROL = """#!/usr/bin/env bash
[[ $1 == requeue ]] && echo "requeued $2" || printf 'node7\nnode8\n'
"""


@pytest.mark.parametrize("launcher", ["train_rl_gp_l.sh", "train_sft_virl_vl.sh"])
def test_under_slurm_a_run_that_was_ended_is_queued_again(launcher, tmp_path):  # 16: 13
    for name, text in (("srun", _SRUN), ("scontrol", _SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    slurm = {
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    command = ["bash", "scripts/slurm.sh", launcher, "paper"]
    refused = subprocess.run(
        command, cwd=ROOT, env=os.environ | slurm, capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert "--run_dir" in refused.stderr
    done = subprocess.run(
        [*command, "--run_dir=runs/x"],
        cwd=ROOT,
        env=os.environ | slurm,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 143
    environment, *arguments, last = done.stdout.splitlines()
    assert environment == "2 4 node7 20017 scripts/accelerate/nodes_zero3.yaml"
    assert arguments == [launcher, "paper", "--run_dir=runs/x", "--resume"]
    assert last == "requeued 17"


@needs_environment
def test_the_last_value_of_an_option_wins():
    source = f"source {ROOT}/scripts/env.sh; option seed 0 --seed=1 --other=2 --seed=3"
    assert _bash("-c", source).stdout == "3"
