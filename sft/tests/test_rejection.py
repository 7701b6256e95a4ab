"""A policy's own right replies as data to fine-tune on."""

import json
from dataclasses import replace

import pytest

from gym_dialogue import InputError
from gym_dialogue.data import read_dialogues
from gym_dialogue.images import open_image
from gym_dialogue.make import EnvConfig, make_envs
from gym_dialogue.policy import NoisyOraclePolicy
from gym_policy import ModelPolicy, Renderer, load_model
from gym_policy.testing import (
    tiny_llama,
    tiny_mllama,
    tiny_mllama_processor,
    tiny_tokenizer,
)
from sft import rejection
from sft.config import SFTConfig
from sft.data import SourceConfig
from sft.initial import InitialConfig, make_initial
from sft.rejection import RejectionConfig, main, sample_right_replies
from sft.train import train


class _Sometimes(ModelPolicy):
    """Answers rightly half of the time, in the tokens of a real tokenizer."""

    def act(self, dialogues):
        replies = NoisyOraclePolicy(0.5).act(dialogues)
        encode = self.renderer.tokenizer.encode
        return [
            replace(
                reply,
                token_ids=(
                    *encode(reply.text, add_special_tokens=False),
                    self.renderer.stop_ids[0],
                ),
            )
            for reply in replies
        ]


@pytest.fixture
def policy():
    tokenizer = tiny_tokenizer()
    return _Sometimes(tiny_llama(tokenizer), Renderer(tokenizer))


def test_right_first_replies_are_kept_and_all_that_was_sampled_is_counted(policy, tmp_path):
    config = RejectionConfig(model="x", num_dialogues=30, batch_size=16, group_size=2)
    actual = sample_right_replies(policy, config, tmp_path)
    dialogues = list(read_dialogues(tmp_path / "data.jsonl"))
    assert len(dialogues) == actual["dialogues"] == 30
    (env,) = make_envs(config.env, 1)
    prompts = set()
    for number, (prompt, reply) in enumerate(dialogues):
        assert (prompt.role, reply.role) == ("user", "assistant")
        prompts.add(prompt.text)
        cards = json.loads(reply.text)["cards"]
        env.reset(options={"cards": cards})
        assert env.step(reply.text)[1] == 5, number
    assert actual["episodes"] % 16 == 0
    assert actual["replies"] == actual["episodes"]
    assert actual["puzzles_covered"] <= actual["puzzles_played"] <= actual["episodes"] / 2
    assert len(prompts) < 30  # two tries at each hand
    assert 30 <= actual["verified"] < actual["episodes"]
    parameters = policy.model.num_parameters()
    assert actual["flops"] == 2 * parameters * actual["tokens"]
    render = policy.renderer.render
    shortest = min(len(render(dialogue).token_ids) for dialogue in dialogues)
    assert actual["tokens"] > 0.9 * shortest * actual["replies"] > actual["reply_tokens"]
    first = (tmp_path / "data.jsonl").read_text()
    sample_right_replies(policy, config, tmp_path)
    assert (tmp_path / "data.jsonl").read_text() == first


def test_every_position_of_a_route_is_a_dialogue(policy, tmp_path):
    env = EnvConfig("gym_virl/Navigation-v0", {"max_legs": 2})
    actual = sample_right_replies(
        policy, RejectionConfig(env=env, num_dialogues=20, batch_size=8), tmp_path
    )
    assert actual["replies"] > actual["episodes"]
    dialogues = list(read_dialogues(tmp_path / "data.jsonl"))
    assert len(dialogues) == 20
    assert any("A_1: " in prompt.text for prompt, _ in dialogues)


def test_images_go_to_files(tmp_path):
    tokenizer = tiny_tokenizer(with_images=True)
    renderer = Renderer(tokenizer, tiny_mllama_processor(tokenizer))
    policy = _Sometimes(tiny_mllama(tokenizer), renderer)
    env = EnvConfig(kwargs={"language_only": False, "resolution": 56})
    sample_right_replies(policy, RejectionConfig(env=env, num_dialogues=5, batch_size=4), tmp_path)
    images = [prompt.image for prompt, _ in read_dialogues(tmp_path / "data.jsonl")]
    assert len(set(images)) == 5
    assert all(open_image(image).shape == (56, 56, 3) for image in images)


def test_the_number_of_tries_is_bounded(policy, tmp_path):
    config = RejectionConfig(num_dialogues=1000, batch_size=8, max_episodes=20)
    actual = sample_right_replies(policy, config, tmp_path)
    assert actual["episodes"] == 20
    assert 0 < actual["dialogues"] == actual["verified"] < 20
    mute = ModelPolicy(policy.model, policy.renderer, max_new_tokens=2)
    with pytest.raises(InputError, match="none of 8 first replies"):
        sample_right_replies(mute, replace(config, max_episodes=8), tmp_path)


def test_the_command_makes_data_that_training_takes(tmp_path, monkeypatch, capsys):
    start = make_initial(
        InitialConfig(
            cache=str(tmp_path / "cache"),
            sources=[SourceConfig()],
            num_dialogues=60,
            num_steps=1,
            batch_size=8,
            lr=1e-3,
        )
    )
    monkeypatch.setattr(rejection, "ModelPolicy", _Sometimes)
    made = main(
        RejectionConfig(
            model=str(start), run_dir=str(tmp_path / "own"), num_dialogues=8, batch_size=8
        )
    )
    assert "first replies" in capsys.readouterr().out
    shown = json.loads((made / "own.json").read_text())
    assert shown["model"] == str(start)
    assert shown["parameters"] == load_model(str(start)).num_parameters()
    with pytest.raises(InputError, match="already holds a run"):
        main(RejectionConfig(model=str(start), run_dir=str(made)))
    train(
        SFTConfig(
            model=str(start),
            run_dir=str(tmp_path / "run"),
            data_file=str(made / "data.jsonl"),
            num_steps=1,
            batch_size=4,
        )
    )
    with pytest.raises(InputError, match="model: name"):
        main(RejectionConfig())
