"""Data sets as the hub has them. Runs where datasets is installed (.ci/doors)."""

import numpy as np
import pytest

pytest.importorskip("datasets")

import datasets

from gym_command.testing import serving
from gym_command.tests.test_hub import Hub
from gym_dialogue.adapters.hub_dataset import main
from gym_dialogue.adapters.tests.played import ENVIRONMENTS
from gym_dialogue.make import EnvConfig, make_envs

CARDS = "gym_cards/GeneralPoint-oneline-v0"


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_answers_are_right_in_the_episode_of_the_seed(env_id, tmp_path):
    main(["--env_id", env_id, "--episodes", "5", "--out", str(tmp_path)])
    rows = datasets.load_dataset(str(tmp_path), "puzzles", cache_dir=str(tmp_path))["train"]
    (env,) = make_envs(EnvConfig(env_id), 1)
    for seed in range(5):
        obs, info = env.reset(seed=seed)
        of_seed = [row for row in rows if row["env_seed"] == seed]
        assert of_seed
        for row in of_seed:
            assert row["puzzle"] == info["puzzle"]
            assert row["prompt"] == [{"role": "user", "content": obs["text"]}]
            obs, _, is_over, _, info = env.step(row["answer"])
            assert info["is_right"]
        assert is_over


def test_mistakes_are_context_alone(tmp_path):
    kwargs = ["--kwargs", '{"verify_iter": 3}', "--error_rate", "0.5", "--episodes", "20"]
    main([*kwargs, "--splits", "train", "heldout", "--out", str(tmp_path)])
    data = datasets.load_dataset(str(tmp_path), "dialogues", cache_dir=str(tmp_path))
    puzzles = {split: set(rows["puzzle"]) for split, rows in data.items()}
    assert not puzzles["train"] & puzzles["heldout"]
    lengths = set()
    for row in data["train"]:
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert [m["trained"] for m in row["messages"]] == [False] * (len(roles) - 1) + [True]
        lengths.add(len(roles))
    assert len(lengths) > 1
    card = (tmp_path / "README.md").read_text()
    assert f"| train | {len(data['train'])} | {len(data['train'])} |" in card


def test_images_are_a_column(tmp_path):
    shown = '{"language_only": false, "resolution": 84}'
    main(["--kwargs", shown, "--episodes", "2", "--out", str(tmp_path)])
    rows = datasets.load_dataset(str(tmp_path), "puzzles", cache_dir=str(tmp_path))["train"]
    (env,) = make_envs(EnvConfig(CARDS, {"language_only": False, "resolution": 84}), 1)
    (image,) = rows[0]["images"]
    assert (np.asarray(image) == env.reset(seed=0)[0]["image"]).all()


def test_data_set_is_sent_to_the_hub(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    with serving(Hub()) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        main(["--episodes", "2", "--out", str(tmp_path), "--push_to_hub", "a/b"])
    sent = hub.files["datasets/a/b"]
    assert sent.keys() == {"README.md", "puzzles/train.parquet", "dialogues/train.parquet"}
    assert f"Sent to {hub.url}/datasets/a/b" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--kwargs", '{"cards": 4}'], "takes no argument 'cards'"),
        (["--splits", "train", "nowhere"], "split"),
        (["--error_rate", "2"], "error_rate=2.0: must be between 0 and 1"),
        (["--error_rate", "1"], "lower error_rate"),
        (["--episodes", "0"], "episodes=0: must be at least 1"),
        (["--push_to_hub", "a/b/c"], "is no name of the hub"),
    ],
)
def test_bad_arguments_end_as_one_line(arguments, word, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--out", str(tmp_path / "out"), *arguments])
    assert ended.value.code == 2
    assert word in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()  # nothing is left half done


def test_directory_that_holds_something_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path)])
    assert "holds something already" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
