"""TRL's GRPOTrainer plays the same episodes as `rollout`. Runs where trl is installed
(.ci/doors).
"""

import json

import pytest

pytest.importorskip("trl")

import torch
from trl import GRPOConfig, GRPOTrainer

from gym_dialogue.adapters.tests.played import ENVIRONMENTS, EPISODES, played
from gym_dialogue.adapters.trl import DialogueRollouts, episode_reward, prompt_dataset
from gym_dialogue.adapters.trl_tools import tool_environment
from gym_dialogue.adapters.trl_train import main
from gym_dialogue.messages import Reply
from gym_dialogue.policy import Policy
from gym_policy.models.testing import ARCHITECTURES
from gym_policy.parts import part_of
from gym_policy.testing import tiny_llama, tiny_tokenizer

CARDS = "gym_cards/GeneralPoint-oneline-v0"


class _Recorded(Policy):
    """Says what was replied in the episode of a dialogue's seed, with a log-probability of -1. With
    `spoils`, every other episode of a batch is of replies that are no answer.
    """

    def __init__(self, episodes, tokenizer, spoils=False):
        self.replies = {e.task.env_seed: [turn.reply.text for turn in e.turns] for e in episodes}
        self.tokenizer, self.spoils = tokenizer, spoils

    def act(self, dialogues):
        texts = [
            "?"
            if self.spoils and dialogue.key[-1] % 2
            else self.replies[dialogue.key[0]][dialogue.num_replies]
            for dialogue in dialogues
        ]
        ids = [(*self.tokenizer(text)["input_ids"], self.tokenizer.eos_token_id) for text in texts]
        return [Reply(t, i, (-1.0,) * len(i)) for t, i in zip(texts, ids, strict=True)]


def _trainer(tmp_path, rollouts, dataset, **settings):
    args = {
        "per_device_train_batch_size": EPISODES,
        "num_generations": 2,
        "max_completion_length": 32,
        "report_to": [],
        "use_cpu": True,
    }
    tokenizer = tiny_tokenizer()
    return GRPOTrainer(
        model=tiny_llama(tokenizer),
        processing_class=tokenizer,
        reward_funcs=episode_reward,
        args=GRPOConfig(output_dir=str(tmp_path), **args | settings),
        train_dataset=dataset,
        rollout_func=rollouts,
    )


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_sequences_are_the_episodes_of_rollout(env_id, tmp_path):
    episodes, kwargs = played(env_id), ENVIRONMENTS[env_id]
    tokenizer = tiny_tokenizer()
    rollouts = DialogueRollouts(env_id, kwargs, lambda _: _Recorded(episodes, tokenizer))
    dataset = prompt_dataset(env_id, EPISODES, kwargs=kwargs)
    columns = rollouts(dataset["prompt"], _trainer(tmp_path, rollouts, dataset))
    assert columns["is_success"] == [episode.is_success for episode in episodes]
    assert columns["env_reward"] == [sum(t.reward for t in e.turns) for e in episodes]
    for row, episode in enumerate(episodes):
        prompt = tokenizer.decode(columns["prompt_ids"][row])
        assert prompt == f"<|user|>{episode.dialogues[0].messages[0].text}<|end|><|assistant|>"
        ids, mask = columns["completion_ids"][row], columns["env_mask"][row]
        replied = tokenizer.decode([i for i, own in zip(ids, mask, strict=True) if own])
        assert replied == "".join(f"{turn.reply.text}<|end|>" for turn in episode.turns)
        heard = tokenizer.decode([i for i, own in zip(ids, mask, strict=True) if not own])
        texts = [m.text for d in episode.dialogues for m in d.messages if m.role == "user"]
        assert heard == "".join(f"<|user|>{text}<|end|><|assistant|>" for text in texts[1:])
        assert columns["logprobs"][row] == [-1.0 if own else 0.0 for own in mask]


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_trainer_learns_from_what_is_better_than_its_group(env_id, tmp_path):
    kwargs, tokenizer = ENVIRONMENTS[env_id], tiny_tokenizer()
    policy = _Recorded(played(env_id), tokenizer, spoils=True)
    rollouts = DialogueRollouts(env_id, kwargs, lambda _: policy)
    dataset = prompt_dataset(env_id, EPISODES, kwargs=kwargs)
    trainer = _trainer(tmp_path, rollouts, dataset, max_steps=1, logging_steps=1)
    before = trainer.model.lm_head.weight.clone()
    trainer.train()
    (log,) = [log for log in trainer.state.log_history if "reward" in log]
    assert log["reward_std"] > 0
    assert not torch.equal(trainer.model.lm_head.weight, before)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "idefics3", "internvl"])
def test_trainer_learns_from_images(kind, tmp_path):
    kwargs = ENVIRONMENTS[CARDS] | {"language_only": False, "resolution": 84}
    model, tokenizer, processor = ARCHITECTURES[kind](0)
    policy = _Recorded(played(CARDS, **kwargs), tokenizer, spoils=True)
    trainer = GRPOTrainer(
        model=model,
        processing_class=processor,
        reward_funcs=episode_reward,
        args=GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=EPISODES,
            num_generations=2,
            max_steps=1,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            bf16=False,
        ),
        train_dataset=prompt_dataset(CARDS, EPISODES, kwargs=kwargs),
        rollout_func=DialogueRollouts(CARDS, kwargs, lambda _: policy),
    )
    seen = [name for name, _ in model.named_parameters() if part_of(name) == "vision"]
    before = {name: p.clone() for name, p in model.named_parameters()}
    trainer.train()
    (log,) = [log for log in trainer.state.log_history if "reward" in log]
    assert log["reward_std"] > 0
    after = dict(model.named_parameters())
    assert any(not torch.equal(before[name], after[name]) for name in seen)


def test_trainer_samples_replies_from_its_model(tmp_path):
    kwargs = ENVIRONMENTS[CARDS]
    dataset = prompt_dataset(CARDS, EPISODES, kwargs=kwargs)
    rollouts = DialogueRollouts(CARDS, kwargs)
    columns = rollouts(dataset["prompt"], _trainer(tmp_path, rollouts, dataset))
    assert not any(columns["is_success"])  # random bytes are no answer
    for ids, mask in zip(columns["completion_ids"], columns["env_mask"], strict=True):
        assert len(ids) > sum(mask) > 0
    logprobs = [p for row in columns["logprobs"] for p in row if p]
    assert max(logprobs) < 0


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_tools_are_the_episodes_of_rollout(env_id):
    environment = tool_environment(env_id, ENVIRONMENTS[env_id])()
    for episode in played(env_id):
        assert environment.reset(env_seed=episode.task.env_seed, prompt=[]) is None
        texts = [m.text for d in episode.dialogues for m in d.messages if m.role == "user"]
        for turn, text in zip(episode.turns[:-1], texts[1:], strict=True):
            assert environment.answer(turn.reply.text) == text
        environment.answer(episode.turns[-1].reply.text)
        assert environment.get_reward() == sum(turn.reward for turn in episode.turns)
        with pytest.raises(ValueError, match="the episode has ended"):
            environment.answer("again")


def test_tools_show_images():
    environment = tool_environment(CARDS, {"language_only": False, "resolution": 84})()
    (block,) = environment.reset(env_seed=0)
    assert (block["type"], block["image"].height) == ("image", 84)


def test_command_trains_a_model(tmp_path):
    tokenizer = tiny_tokenizer()
    model = tmp_path / "model"
    tokenizer.save_pretrained(model)
    tiny_llama(tokenizer).save_pretrained(model)
    sizes = ["--per_device_train_batch_size", "4", "--num_generations", "2", "--episodes", "4"]
    out = tmp_path / "out"
    length = ["--max_completion_length", "16", "--max_steps", "1"]
    main(["--model", str(model), "--output_dir", str(out), *length, *sizes])
    assert json.loads((out / "config.json").read_text())["model_type"] == "llama"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--kwargs", '{"cards": 4}'], "takes no argument 'cards'"),
        (["--model", "nowhere/at/all"], "nowhere/at/all"),
        (["--kwargs", '{"language_only": false}'], "reads text only"),
        (["--num_generations", "1"], "generation"),
    ],
)
def test_bad_arguments_end_as_one_line(arguments, word, tmp_path, capsys):
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    tiny_llama(tokenizer).save_pretrained(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["--model", str(tmp_path), "--output_dir", str(tmp_path / "out"), *arguments])
    assert ended.value.code == 2
    assert word in capsys.readouterr().err.splitlines()[-1]
