"""What is said of a checkpoint that was trained on another wording than the one in use."""

import json

import pytest
import yaml

from gym_policy.training.trained_wording import wording_note

MAKE = "make it with `python -m gym_dialogue.wording"
GP_DATA = "data/SFTvsRL_Data/SFT_Data/gp-l/data.json --task=gp_l"


@pytest.mark.parametrize(
    ("checkpoint", "source"),
    [
        ("tianzhechu/GP-L-Init", GP_DATA),
        ("tianzhechu/GP-L-RL20", GP_DATA),
        ("/models/GP-L-Init", GP_DATA),
        ("tianzhechu/gp-l-init", GP_DATA),
        ("/models/virl-vl-rl20", "CLONE_OF_SFTvsRL --task=virl_vl"),
        ("/hub/models--tianzhechu--GP-L-Init/snapshots/5d", GP_DATA),
        ("tianzhechu/VIRL-L-Init", "data/SFTvsRL_Data/SFT_Data/virl-l/data.json --task=virl_l"),
        ("tianzhechu/GP-VL-Init", "CLONE_OF_SFTvsRL --task=gp_vl"),
        ("tianzhechu/VIRL-VL-Init/", "CLONE_OF_SFTvsRL --task=virl_vl"),
    ],
)
def test_a_released_checkpoint_under_the_projects_own_wording(checkpoint, source):
    note = wording_note(checkpoint, None)
    assert note.startswith(f"note: {checkpoint} was trained on the released wording; {MAKE}")
    assert f"{source} --out wording.json` and give --prompt_file=wording.json" in note
    assert "\n" not in note
    assert wording_note(checkpoint, "wording.json") is None


@pytest.mark.parametrize("checkpoint", ["meta-llama/Llama-3.2-11B-Vision-Instruct", "/a/GP-L", "x"])
def test_nothing_is_said_of_what_is_not_known(checkpoint):
    assert wording_note(checkpoint, None) is None
    assert wording_note(checkpoint, "wording.json") is None


@pytest.fixture
def run(tmp_path):
    """Writes a run's settings, in a folder that has a released name; its last checkpoint."""

    def write(**settings):
        directory = tmp_path / "GP-L-Init" / "run"
        checkpoint = directory / "checkpoints" / "update-000003"
        checkpoint.mkdir(parents=True)
        (directory / "config.yaml").write_text(yaml.safe_dump({"task": "gp_l"} | settings))
        return str(checkpoint)

    return write


def _wording(path, text, **options):
    path.write_text(json.dumps({"prompt": text}, **options))
    return str(path)


def test_a_run_under_its_own_wording_and_under_another(run, tmp_path):
    before = _wording(tmp_path / "a.json", "A")
    same = _wording(tmp_path / "same.json", "A", indent=2)
    other = _wording(tmp_path / "b.json", "B")
    checkpoint = run(prompt_file=before)
    assert wording_note(checkpoint, before) is None
    assert wording_note(checkpoint, same) is None
    shown = wording_note(checkpoint, other)
    assert f"trained on the wording {before}, and {other} is in use" in shown
    assert shown.endswith(f"give --prompt_file={before} for the same")
    assert "the project's own is in use" in wording_note(checkpoint, None)
    (tmp_path / "a.json").unlink()
    assert f"{other} is in use" in wording_note(checkpoint, other)


def test_a_run_without_a_wording(run, tmp_path):
    checkpoint = run(prompt_file=None)
    assert wording_note(checkpoint, None) is None
    other = _wording(tmp_path / "b.json", "B")
    assert f"this project's own wording, not {other}" in wording_note(checkpoint, other)


@pytest.mark.parametrize("data", ["mine.json", "data/SFTvsRL_Data/SFT_Data/gp-l/data.json"])
def test_nothing_is_said_of_a_wording_that_data_may_have(run, data):
    assert wording_note(run(data_file=data, prompt_file=None), "wording.json") is None


def test_a_run_on_released_data_of_a_task_that_no_name_tells(run):
    note = wording_note(run(data_file="/a/SFTvsRL_Data/SFT_Data/data.json"), None)
    assert "/a/SFTvsRL_Data/SFT_Data/data.json --task=TASK --out" in note


@pytest.mark.parametrize(
    "place",
    [
        "data/SFTvsRL_Data",
        "/home/gp-l/data/SFTvsRL_Data",
        "../sftvsrl_data",
        "/hub/datasets--tianzhechu--SFTvsRL_Data/snapshots/5d",
    ],
)
def test_a_run_on_released_data(run, place):
    data = f"{place}/SFT_Data/virl-l/data.json"
    note = wording_note(run(data_file=data), None)
    assert f"trained on {data}; make its wording with" in note
    assert f"{data} --task=virl_l --out" in note
