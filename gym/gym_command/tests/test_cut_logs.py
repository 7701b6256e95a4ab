"""The logs of a run that goes on."""

import json

from gym_command.run_dir import RunDir


def test_logs_are_cut_where_the_checkpoint_was(tmp_path):
    lines = [json.dumps({"update": u}) + "\n" for u in (1, 2, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines) + '{"update": 4, "ki')
    RunDir(tmp_path).cut_after(2)
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(lines[:3])
