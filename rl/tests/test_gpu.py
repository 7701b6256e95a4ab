"""The command behind scripts/gpu.sh, with tiny shapes on the CPU."""

import json
import os
import subprocess

import pytest

from gym_dialogue import InputError
from rl.gpu import command
from rl.gpu.config import GpuConfig
from rl.gpu.results import Results, Row
from rl.testing import PATH, ROOT


@pytest.mark.skipif(not (ROOT / ".venv" / "made-from").is_file(), reason="there is no .venv here")
def test_every_part_measures_tiny_shapes(tmp_path):
    run = tmp_path / "run"
    done = subprocess.run(
        ["bash", "scripts/gpu.sh", "--shapes=tiny", f"--run_dir={run}"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=480,
    )
    assert done.returncode == 0, done.stderr
    rows = Results(run).rows()
    assert not [row for row in rows if row.measured.startswith(("failed", "ended"))]
    measured = {(row.part, row.what): row.measured for row in rows}
    assert {part for part, _ in measured} == set(GpuConfig().parts)
    for shape in ("llama_1b", "llama_8b"):
        for sampler in ("cached", "paged", "static"):
            for batch in (2, 4):
                what = f"decoding at batch {batch}, {sampler}, of the memory bandwidth"
                assert "tokens/s" in measured[shape, what]
        assert float(measured[shape, "learning, of the matrix rate"].split()[-2]) > 0
    gaps = [row.measured for row in rows if "from the learner" in row.what]
    assert len(gaps) == 5
    assert all(float(gap.split()[1].rstrip(",")) < 1e-5 for gap in gaps)
    assert "->" in measured["small", "first replies right, rule_ood, start -> end"]
    assert (run / "table.md").read_text() == Results(run).table()
    assert (run / "table.md").read_text() in done.stdout


def test_part_that_takes_too_long_is_ended_and_the_next_one_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", PATH)
    monkeypatch.chdir(tmp_path)  # where no small model is
    monkeypatch.setattr(command, "_LEAST", 0.0)
    monkeypatch.setitem(command.SECONDS, "device", 0.1)
    command.main(GpuConfig(run_dir="run", parts=["device", "small"]))
    slow, missing = Results("run").rows()
    assert slow.measured.startswith("ended after 0 s")
    assert missing.measured.startswith("skipped: there is neither .cache/models/smollm2")
    assert str(missing) in capsys.readouterr().out
    with pytest.raises(InputError, match="holds results already"):
        command.main(GpuConfig(run_dir="run"))


def test_part_that_fails_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # where no module of this project is
    monkeypatch.chdir(tmp_path)
    command.main(GpuConfig(run_dir=str(tmp_path / "run"), parts=["device"]))
    (row,) = Results(tmp_path / "run").rows()
    assert row.measured.startswith("failed: ")
    assert "\n" not in row.measured
    assert (tmp_path / "run" / "device.log").name in row.measured


def test_rows_are_read_while_another_is_written(tmp_path):
    results = Results(tmp_path)
    results.add(Row("device", "name", "x"))
    with open(results.file, "a") as file:
        file.write(json.dumps({"part": "device"})[:9])
    assert results.rows() == [Row("device", "name", "x")]
