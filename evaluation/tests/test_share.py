"""Model cards, and checkpoints on their way to a hub."""

import json

import pytest
import yaml

from evaluation.share import ShareConfig, main
from gym_command.checkpoints import TRAINING_DIR
from gym_command.testing import serving
from gym_command.tests.test_hub import Hub
from gym_dialogue import InputError

INTERVAL = {"value": 0.5, "low": 0.4, "high": 0.6}


@pytest.fixture
def run(tmp_path):
    """A run of two checkpoints, of which the last was evaluated."""
    settings = {
        "model": "owner/base",
        "run_dir": "/home/someone/runs/x",
        "seed": 3,
        "algorithm": "grpo",
        "env": {"id": "gym_cards/GeneralPoint-oneline-v0", "kwargs": {"split": "train"}},
        "lr": 1e-5,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    for update in (0, 40):
        checkpoint = tmp_path / "checkpoints" / f"update-{update:06d}"
        (checkpoint / TRAINING_DIR).mkdir(parents=True)
        (checkpoint / TRAINING_DIR / "state").write_text("large")
        (checkpoint / "config.json").write_text('{"model_type": "llama"}')
    measured = {"id": {"episodes": 300, "metrics": {"first_reply": INTERVAL}}}
    summary = {
        "suites": {"id": {"title": "in distribution", "shift": "none"}},
        "checkpoints": {"update-000040": {"sampled": measured, "greedy": measured}},
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    return tmp_path


def test_card_says_what_was_trained_and_how_well_it_does(run):
    checkpoint = main(ShareConfig(str(run), license="apache-2.0"))
    assert checkpoint.name == "update-000040"
    card = (checkpoint / "README.md").read_text()
    _, header, text = card.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["verifiable", "multi-turn", "grpo"],
        "license": "apache-2.0",
        "base_model": "owner/base",
    }
    assert "GRPO fine-tuning of `owner/base`" in text
    assert "40 updates, seed 3" in text
    assert "| in distribution | 50.0 [40.0, 60.0] | 50.0 [40.0, 60.0] |" in text
    assert "lr: 1.0e-05" in text
    assert "someone" not in card


def test_checkpoint_goes_to_the_hub_without_its_training_state(run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    with serving(Hub()) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        main(ShareConfig(str(run), push_to_hub="a/b"))
    assert hub.files["models/a/b"].keys() == {"README.md", "config.json"}
    assert b"bash scripts/eval_ood.sh a/b" in hub.files["models/a/b"]["README.md"]


def _adapter(run, base):
    """Make the run's last checkpoint an adapter on a base."""
    checkpoint = run / "checkpoints" / "update-000040"
    (checkpoint / "config.json").unlink()
    about = json.dumps({"base_model_name_or_path": base, "peft_type": "LORA"})
    (checkpoint / "adapter_config.json").write_text(about)


def test_adapter_says_that_it_is_one(run):
    _adapter(run, "owner/base")
    card = (main(ShareConfig(str(run))) / "README.md").read_text()
    assert "library_name: peft" in card


def test_adapter_on_a_base_that_is_here_alone_is_not_sent(run):
    _adapter(run, str(run))
    with pytest.raises(InputError, match="is here alone: merge them"):
        main(ShareConfig(str(run), push_to_hub="a/b"))


def test_card_of_a_run_from_a_file_names_no_environment_and_no_path(run):
    settings = yaml.safe_load((run / "config.yaml").read_text())
    del settings["algorithm"], settings["env"]
    settings |= {"data_file": "/home/someone/data.json", "prompt_file": "/home/someone/w.json"}
    settings["sources"] = [{"env": {"id": "x/Y-v0", "kwargs": {"card_dir": "~/someone/cards"}}}]
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    card = (main(ShareConfig(str(run))) / "README.md").read_text()
    assert "Supervised fine-tuning of `owner/base` on the dialogues of a file" in card
    assert "someone" not in card


def test_run_whose_settings_name_no_environment_is_refused(run):
    (run / "config.yaml").write_text("algorithm: grpo\nmodel: a/b\nenv: null\n")
    with pytest.raises(InputError, match="names no environment"):
        main(ShareConfig(str(run)))


def test_run_that_was_not_evaluated_says_so(run):
    (run / "summary.json").unlink()
    assert "It was not evaluated." in (main(ShareConfig(str(run))) / "README.md").read_text()


def test_checkpoint_outside_of_a_run_is_refused(run):
    (run / "config.yaml").unlink()
    with pytest.raises(InputError, match="is not in a run's directory"):
        main(ShareConfig(str(run)))


def test_checkpoint_must_be_named():
    with pytest.raises(InputError, match="--checkpoint=RUN"):
        main(ShareConfig())


def test_foreign_summary_is_named(run):
    (run / "summary.json").write_text("[]")
    with pytest.raises(InputError, match="is no summary of an evaluation"):
        main(ShareConfig(str(run)))
