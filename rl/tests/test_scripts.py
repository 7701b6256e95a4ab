"""The launchers: their syntax, their choices, and how they refuse bad input."""

import os
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))

_ACTIVE = ("VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "CKPT_NAME", "PROCESSES")

needs_environment = pytest.mark.skipif(
    not (ROOT / ".venv" / "made-from").is_file(), reason="the launchers have made no .venv here"
)


def _bash(*arguments, **environment):
    env = {key: value for key, value in os.environ.items() if key not in _ACTIVE} | environment
    return subprocess.run(
        ["bash", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
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
        (
            ["eval_ood.sh", "owner/model", "paper"],
            "say which with --task=gp_l|gp_vl|virl_l|virl_vl",
        ),
        (["eval_ood.sh", "paper", "owner/GP-L", "--task=chess"], "paper is for gp_l, gp_vl"),
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
def test_under_slurm_a_run_that_was_ended_is_queued_again(launcher, tmp_path):
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


def _sourced(commands, **environment):
    done = _bash("-c", f"source {ROOT}/scripts/env.sh; {commands}", **environment)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def environment(tmp_path):
    """Makes what looks like an environment with packages of some versions: its directory. Its
    Python knows `packaging`, which transformers would bring along.
    """

    def make(versions):
        site = tmp_path / "site"
        for name, version in versions.items():
            about = site / f"{name.replace('-', '_')}-{version}.dist-info"
            about.mkdir(parents=True)
            (about / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
        (tmp_path / "bin").mkdir()
        python = tmp_path / "bin" / "python"
        find = (
            "import sys, packaging.requirements; paths = [p for p in sys.path if 'site-' not in p]"
        )
        run = "import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], None, '__main__')"
        lines = f"{find}; sys.path[:] = [*paths, {str(site)!r}]; {run}"
        python.write_text(f'#!/bin/sh\nexec {ROOT}/.venv/bin/python -c "{lines}" "$@"\n')
        python.chmod(0o755)
        return str(tmp_path)

    return make


def _all_needed():
    """Versions of a site in which nothing is missing: those of this environment."""
    lines = (ROOT / "requirements.txt").read_text().partition("# Tests")[0].splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    brought = {name: metadata.version(name) for name in ("huggingface-hub", "pyyaml", "tokenizers")}
    return brought | {name.partition("[")[0]: version for name, version in pins.items()}


ACTIVATED = [
    lambda path: {"VIRTUAL_ENV": path},
    lambda path: {"CONDA_PREFIX": path, "CONDA_DEFAULT_ENV": "mine"},
]


@needs_environment
@pytest.mark.parametrize("activated", ACTIVATED)
def test_an_activated_environment_that_lacks_nothing_is_used(activated, environment):
    path = environment(_all_needed() | {"torch": "2.9.1+cu128"})
    done = _sourced('echo "$python $PYTHONPATH"', **activated(path))
    assert done.stderr == f"Using the active environment {path}\n"
    python, places = done.stdout.split()
    assert python == f"{path}/bin/python"
    assert places.split(":")[:2] == [str(ROOT), str(ROOT / "gym")]


@needs_environment
@pytest.mark.parametrize("activated", ACTIVATED)
@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"torch": "2.5.1"}, "torch>=2.6 (has 2.5.1)"),
        ({"accelerate": None, "transformers": None}, "accelerate>=1.10, transformers>=5.0"),
    ],
)
def test_an_activated_environment_that_lacks_something_is_not(activated, change, word, environment):
    versions = {key: value for key, value in (_all_needed() | change).items() if value}
    path = environment(versions)
    done = _sourced('echo "$python"', **activated(path))
    assert done.stderr == f"The active environment {path} lacks {word}: using .venv instead\n"
    assert done.stdout.strip() == f"{ROOT}/.venv/bin/python"


@needs_environment
def test_condas_base_and_the_projects_own_environment_are_not_spoken_of(environment):
    base = {"CONDA_PREFIX": environment(_all_needed()), "CONDA_DEFAULT_ENV": "base"}
    for active in (base, {"VIRTUAL_ENV": str(ROOT / ".venv")}, {"VIRTUAL_ENV": "/nowhere"}):
        done = _sourced('echo "$python"', **active)
        assert (done.stdout.strip(), done.stderr) == (f"{ROOT}/.venv/bin/python", "")


@needs_environment
def test_a_checkpoint_may_be_named_by_its_variable():
    shown = 'launch() { printf "%s\n" "$@"; }; train rl gp_l paper'
    named = _sourced(shown, CKPT_NAME="owner/x").stdout.splitlines()
    assert "--model=owner/x" in named
    both = _sourced(f"{shown} --model=owner/y", CKPT_NAME="owner/x").stdout.splitlines()
    assert [line for line in both if "model" in line] == ["--model=owner/y"] * 2
    assert "--model" not in _sourced(shown).stdout
    done = _bash("scripts/eval_ood.sh", CKPT_NAME="/nowhere/x")
    assert done.returncode == 2
    assert "error: checkpoint /nowhere/x: no such directory" in done.stderr
    done = _bash("scripts/eval_ood.sh", "/nowhere/y", CKPT_NAME="/nowhere/x")
    assert "error: checkpoint /nowhere/y: no such directory" in done.stderr


@needs_environment
@pytest.mark.parametrize(
    ("variables", "processes"),
    [
        ({}, "3"),
        ({"CUDA_VISIBLE_DEVICES": "0,2"}, "2"),
        ({"PROCESSES": "5"}, "5"),
        ({"ACCELERATE_CONFIG": "some.yaml"}, "some.yaml"),
    ],
)
def test_an_evaluation_as_the_papers_takes_every_gpu(variables, processes, tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nprintf 'GPU 0: A\\n  MIG 1g: B\\nGPU 1: A\\nGPU 2: A\\n'\n")
    smi.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert _sourced("use_all_gpus; spread", **path, **variables).stdout == processes
    assert _sourced("spread", **path).stdout == "1"
