"""The same gradient however an update is spread: microbatches, processes, DeepSpeed's stages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gym_command.launch import from_accelerate
from gym_dialogue import InputError
from rl import backend
from rl.config import LoraSettings, RLConfig
from rl.testing import PATH, SMALL, command

ROOT = Path(__file__).parents[2]
ACCELERATE = ROOT / "scripts" / "accelerate"


def _gradient(how, microbatch_size, out):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "gym_command.launch",
            how,
            "rl.tests.gradient_worker",
            out,
            microbatch_size,
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": PATH},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    saved = torch.load(out, weights_only=True)
    stats = json.loads(saved["stats"])
    norm = sum(float((part**2).sum()) for part in saved["gradient"].values()) ** 0.5
    assert stats["grad_norm"] > 1.5
    assert norm == pytest.approx(1.0, abs=1e-4)  # it was clipped, to the norm of the worker
    return {name: part * stats["grad_norm"] for name, part in saved["gradient"].items()}, stats


@pytest.fixture(scope="module")
def at_once(tmp_path_factory):
    return _gradient("1", "8", str(tmp_path_factory.mktemp("gradient") / "at_once.pt"))


@pytest.mark.parametrize(
    ("how", "microbatch_size"),
    [
        ("1", "1"),
        (str(ACCELERATE / "cpu_zero2_2proc.yaml"), "2"),
        (str(ACCELERATE / "cpu_zero3_2proc.yaml"), "1"),
    ],
    ids=["accumulated", "zero2", "zero3"],
)
def test_the_gradient_of_an_update_does_not_depend_on_how_it_is_spread(
    how, microbatch_size, at_once, tmp_path
):
    expected, expected_stats = at_once
    gradient, stats = _gradient(how, microbatch_size, str(tmp_path / "gradient.pt"))
    assert gradient.keys() == expected.keys()
    assert all(part.abs().max() > 1e-4 for name, part in expected.items() if "value" not in name)
    for name, part in expected.items():
        torch.testing.assert_close(gradient[name], part, atol=1e-5, rtol=0, msg=name)
    for name in ("grad_norm", "policy_loss", "value_loss", "entropy", "approx_kl"):
        assert stats[name] == pytest.approx(expected_stats[name], abs=1e-5), name


@pytest.mark.parametrize("file", sorted(ACCELERATE.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_accelerate_configuration_can_be_launched(file, monkeypatch):
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    processes, env, machines = from_accelerate(str(file))
    expected = {"2proc": 2, "gpu8": 8, "nodes": 8}
    assert processes == next((n for word, n in expected.items() if word in file.stem), 1)
    assert (env.get("DS_ACCELERATOR") == "cpu") == ("cpu_zero" in file.stem)
    if "zero" in file.stem:
        stage = file.stem.partition("zero")[2][0]
        assert env["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == stage
        offload = "cpu" if "offload" in file.stem else "none"
        assert env["ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE"] == offload
    assert (machines is not None) == ("nodes" in file.stem)
    if machines:
        assert (machines["WORLD_SIZE"], machines["MACHINE_RANK"]) == ("16", "0")


def test_the_environment_of_slurm_wins_over_the_file(monkeypatch):
    for name, value in {
        "NUM_MACHINES": "3",
        "MACHINE_RANK": "2",
        "MAIN_PROCESS_IP": "10.0.0.1",
        "MAIN_PROCESS_PORT": "29511",
        "NUM_PROCESSES": "4",
    }.items():
        monkeypatch.setenv(name, value)
    processes, _, machines = from_accelerate(str(ACCELERATE / "nodes_zero3.yaml"))
    assert processes == 4
    assert (machines["WORLD_SIZE"], machines["MACHINE_RANK"]) == ("12", "2")
    assert (machines["MASTER_ADDR"], machines["MASTER_PORT"]) == ("10.0.0.1", "29511")


def test_accelerate_configurations_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        from_accelerate(str(tmp_path / "none.yaml"))
    file = tmp_path / "fsdp.yaml"
    text = (ACCELERATE / "gpu8_zero2.yaml").read_text()
    file.write_text(text.replace("DEEPSPEED", "FSDP").replace("deepspeed_config", "fsdp_config"))
    with pytest.raises(InputError, match="must be DEEPSPEED"):
        from_accelerate(str(file))


def test_what_a_machine_cannot_serve_is_one_line(monkeypatch):
    with pytest.raises(InputError, match="clearml is not installed"):
        backend.make_accelerator(RLConfig(model="x", trackers=["clearml"]))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="use_cpu: true"):
        backend.make_accelerator(RLConfig(model="x"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(InputError, match="2 processes on this machine, but 1 GPUs"):
        backend.make_accelerator(RLConfig(model="x"))


def test_zero3_refuses_a_second_whole_model():
    with pytest.raises(InputError, match="ZeRO-3"):
        backend.check_stage(RLConfig(model="x", kl_coef=0.1), 3)
    backend.check_stage(RLConfig(model="x", kl_coef=0.1, lora=LoraSettings(rank=4)), 3)
    backend.check_stage(RLConfig(model="x", kl_coef=0.1), 2)


def test_stage_0_of_deepspeed_is_refused(start, tmp_path):
    text = (ACCELERATE / "cpu_zero2_2proc.yaml").read_text()
    text = text.replace("zero_stage: 2", "zero_stage: 0").replace("processes: 2", "processes: 1")
    (tmp_path / "zero0.yaml").write_text(text)
    run = tmp_path / "run"
    options = [f"--model={start}", f"--run_dir={run}", *SMALL]
    done = command("gym_command.launch", str(tmp_path / "zero0.yaml"), "rl.train", *options)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "error" in line] == [
        "error: zero_stage: 0 of DeepSpeed partitions nothing: set 1, 2 or 3, or for the same "
        "without DeepSpeed distributed_type: MULTI_GPU"
    ]
    assert not run.exists()
    backend.check_stage(RLConfig(model="x"), None)


def test_bfloat16_is_computed_in_and_not_trained_in(monkeypatch):
    full = RLConfig(model="x", dtype="bfloat16")
    low_rank = RLConfig(model="x", dtype="bfloat16", lora=LoraSettings(rank=4))
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED", raising=False)
    assert (backend.load_dtype(full), backend.mixed_precision(full)) == ("float32", "bf16")
    assert (backend.load_dtype(low_rank), backend.mixed_precision(low_rank)) == ("bfloat16", "no")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert (backend.load_dtype(full), backend.mixed_precision(full)) == ("bfloat16", "bf16")
