"""Oracle data, masks, and a training run on a real tiny Llama."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from gym_command.command import parse_config
from gym_command.lock import locked
from gym_command.run_dir import saved_checkpoints
from gym_dialogue import InputError, Message
from gym_dialogue.data import read_dialogues
from gym_dialogue.make import EnvConfig, make_envs
from gym_policy import Renderer, load_model, load_tokenizer
from sft import initial as sft_initial
from sft.config import SFTConfig
from sft.data import (
    DialogueItems,
    PadRight,
    SourceConfig,
    TrainingOrder,
    bucketed_order,
    hold_back,
    make_dialogues,
    write_jsonl,
)
from sft.initial import InitialConfig, make_initial
from sft.tiny import build_tokenizer
from sft.train import train


def _source(error_rate=0.0, share=1.0, **kwargs):
    return SourceConfig(EnvConfig(kwargs={"verify_iter": 3} | kwargs), share, error_rate)


def test_dialogues_are_right_in_the_end_and_only_that_is_learned(tmp_path):
    made = make_dialogues([_source(0.0), _source(0.6)], 200, seed=0, show_progress=False)
    assert len(made) == 200  # for those that the noisy oracle lost, others are played
    lengths = {len(dialogue["messages"]) for dialogue in made}
    assert lengths == {2, 4, 6}
    write_jsonl(tmp_path / "a.jsonl", made)
    dialogues = list(read_dialogues(tmp_path / "a.jsonl"))
    for messages in dialogues:
        replies = [m for m in messages if m.role == "assistant"]
        assert [m.trained for m in replies] == [False] * (len(replies) - 1) + [True]
    tokenizer = build_tokenizer(m.text for messages in dialogues for m in messages)
    items = DialogueItems(dialogues, Renderer(tokenizer))
    dataset = TrainingOrder(items, 4, 10, seed=0)
    for index, messages in enumerate(dialogues):
        item = items[index]
        learned = [label for label in item["labels"] if label != -100]
        assert tokenizer.decode(learned) == messages[-1].text + "<|end|>"
    batch = PadRight(tokenizer.pad_token_id)([dataset[i] for i in range(4)])
    assert batch["input_ids"].shape == batch["labels"].shape
    assert ((batch["labels"] == -100) | (batch["labels"] == batch["input_ids"])).all()


@pytest.mark.parametrize("shares", [(1, 1, 1), (0.5, 0.2, 0.7), (1, 0, 3)])
def test_as_many_dialogues_are_made_as_were_asked_for(shares):
    sources = [_source(0.9, share) for share in shares]
    made = make_dialogues(sources, 50, seed=0, show_progress=False)
    assert len(made) == 50


def test_an_oracle_that_always_errs_is_refused():
    with pytest.raises(InputError, match=r"error_rate=1\.0: .* 2 are missing"):
        make_dialogues([_source(1.0)], 2, seed=0, show_progress=False)


@pytest.mark.parametrize("shares", [(), (0.0,), (2.0, -1.0), (float("inf"),), (float("nan"),)])
def test_shares_that_describe_no_mix_are_refused(shares):
    with pytest.raises(InputError, match="sources: need at least one"):
        make_dialogues([_source(0.0, s) for s in shares], 2, seed=0, show_progress=False)


def test_the_same_seed_makes_the_same_data():
    first = make_dialogues([_source(0.5)], 30, seed=3, show_progress=False)
    assert first == make_dialogues([_source(0.5)], 30, seed=3, show_progress=False)
    assert first != make_dialogues([_source(0.5)], 30, seed=4, show_progress=False)


def test_dialogues_of_a_fine_tuning_are_not_those_of_its_initial_checkpoint():
    streams = InitialConfig.DATA_STREAM, SFTConfig.DATA_STREAM
    made = [
        make_dialogues([_source(0.5)], 200, seed=0, show_progress=False, stream=stream)
        for stream in streams
    ]
    prompts = [{d["messages"][0]["content"] for d in dialogues} for dialogues in made]
    assert len(prompts[0] & prompts[1]) < 0.1 * len(prompts[0])


def test_order_uses_every_item_and_groups_lengths():
    lengths = np.random.default_rng(0).integers(10, 100, size=320)
    order = bucketed_order(lengths, 16, 40, np.random.default_rng(0))
    assert (np.bincount(order, minlength=320) == 2).all()
    spread = [np.ptp(lengths[part]) for part in order.reshape(40, 16)]
    assert np.mean(spread) < 20
    means = lengths[order.reshape(40, 16)].mean(1)
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.5


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        '{"messages": []}',
        '{"messages": [{"role": "user", "content": "a"}]}',
        '{"messages": [{"role": "assistant", "content": "a"}]}',
        '{"messages": [{"role": "user", "content": 1}, {"role": "assistant", "content": "a"}]}',
        '{"messages": [{"role": "user"}, {"role": "assistant", "content": "a"}]}',
    ],
)
def test_malformed_data_is_named_by_line(line, tmp_path):
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(good) + "\n" + line + "\n")
    with pytest.raises(InputError, match="line 2"):
        list(read_dialogues(file))
    with pytest.raises(InputError, match="cannot be read"):
        list(read_dialogues(tmp_path / "missing.jsonl"))


@pytest.mark.parametrize(
    ("source", "mean_length", "size"),
    [
        (SourceConfig(EnvConfig(kwargs={"face_rule": "random"}), 1, 0.5), 16, 450),
        (SourceConfig(EnvConfig(kwargs={"wording": "diverse"}), 1, 0.5), 16, 500),
        (SourceConfig(EnvConfig("gym_virl/Navigation-v0"), 1, 0.1), 70, 600),
    ],
)
def test_tiny_tokenizer_is_lossless_and_short(source, mean_length, size):
    made = make_dialogues([source], 1500, seed=0, show_progress=False)
    (env,) = make_envs(source.env, 1)
    texts = [m["content"] for dialogue in made for m in dialogue["messages"]]
    tokenizer = build_tokenizer(texts, env.unwrapped.token_patterns)
    for text in [*texts[:50], "anything else, été 漢", ""]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert np.mean([len(tokenizer(text)["input_ids"]) for text in texts]) < mean_length
    assert len(tokenizer) < size


def test_loss_falls_on_prompts_if_asked_to():
    messages = [
        Message("user", "Which?"),
        Message("assistant", "A", trained=False),
        Message("user", "No."),
        Message("assistant", "B"),
    ]
    renderer = Renderer(build_tokenizer(m.text for m in messages))

    def learned(learns_prompts):
        labels = DialogueItems([messages], renderer, learns_prompts)[0]["labels"]
        return renderer.tokenizer.decode([label for label in labels if label != -100])

    assert learned(False) == "B<|end|>"
    whole = learned(True)
    assert "Which?" in whole
    assert "No." in whole
    assert "A<|end|>" not in whole


@pytest.mark.parametrize(
    ("rule", "steps"), [({}, 6), ({"stop_at": 0.0}, 2), ({"stop_above": 0.0}, 2)]
)
def test_a_start_is_done_where_it_should_be(rule, steps, tmp_path):
    config = InitialConfig(
        cache=str(tmp_path / "cache"),
        sources=[_source()],
        num_dialogues=50,
        num_steps=6,
        batch_size=4,
        probe_every=2,
        probe_episodes=4,
        max_new_tokens=4,
        **rule,
    )
    lines = (make_initial(config) / "metrics.jsonl").read_text().splitlines()
    assert max(json.loads(line)["update"] for line in lines) == steps


@pytest.mark.parametrize(("least", "steps"), [(0.0, 1), (0.5, 2)])
def test_initial_checkpoint_is_done_once_each_kind_of_position_is_right(least, steps, tmp_path):
    route = {"max_legs": 2, "straight_line_length": 1}
    config = InitialConfig(
        cache=str(tmp_path / "cache"),
        sources=[SourceConfig(EnvConfig("gym_virl/Navigation-v0", route))],
        num_dialogues=20,
        num_steps=2,
        batch_size=4,
        probe_every=1,
        probe_episodes=2,
        max_new_tokens=4,
        stop_at=0.0,
        stop_at_kind=least,
    )
    lines = (make_initial(config) / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert max(record["update"] for record in records) == steps
    assert any("success/turn" in record for record in records)


def test_a_start_is_made_once_and_then_trained_on(tmp_path):
    config = InitialConfig(
        cache=str(tmp_path / "cache"),
        sources=[_source()],
        num_dialogues=200,
        num_steps=6,
        batch_size=16,
        lr=3e-3,
    )
    start = make_initial(config)
    model, tokenizer = load_model(str(start)), load_tokenizer(str(start))
    assert model.num_parameters() == pytest.approx(0.9e6, rel=0.1)
    assert model.config.vocab_size == len(tokenizer)
    changed = (start / "model.safetensors").stat().st_mtime_ns
    assert make_initial(config) == start
    assert (start / "model.safetensors").stat().st_mtime_ns == changed
    run = train(
        SFTConfig(
            model=str(start),
            run_dir=str(tmp_path / "run"),
            sources=[_source()],
            num_dialogues=100,
            num_steps=4,
            batch_size=16,
            lr=1e-3,
            save_every=2,
        )
    )
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["update-000000", "update-000002", "update-000004"]
    assert [path[-6:] for path in saved_checkpoints(str(run))] == ["000000", "000004"]
    losses = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["update"] for record in losses if "loss" in record] == [1, 2, 3, 4]
    assert yaml.safe_load((run / "config.yaml").read_text())["num_steps"] == 4
    assert list((run / "tensorboard").rglob("events*"))
    load_model(saved_checkpoints(str(run))[-1])


def test_of_launchers_that_want_the_same_start_one_makes_it(tmp_path, monkeypatch):
    config = InitialConfig(
        cache=str(tmp_path / "cache"), sources=[_source()], num_dialogues=60, num_steps=1
    )
    made = make_initial(config)
    aside = made.rename(tmp_path / "aside")
    with contextlib.ExitStack() as other:
        other.enter_context(locked(made.with_name(f"{made.name}.lock")))

        def other_ends(line):
            assert line == f"Waiting for another process, which makes {made}"
            aside.rename(made)
            other.close()

        monkeypatch.setattr(sft_initial, "print", other_ends, raising=False)
        monkeypatch.setattr(sft_initial, "_make_initial", None)
        assert make_initial(config) == made
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [made.name]


def test_bad_numbers_are_named():
    for kwargs, word in (({}, "model"), ({"model": "x", "lr": 0.0}, "lr")):
        with pytest.raises(InputError, match=word):
            train(SFTConfig(**kwargs))


def test_a_shipped_start_is_found_by_its_recipe(tmp_path):
    config = InitialConfig(
        cache=str(tmp_path / "cache"),
        shipped=str(tmp_path / "shipped"),
        ship=True,
        sources=[_source()],
        num_dialogues=60,
        num_steps=1,
        batch_size=16,
        lr=3e-3,
    )
    made = make_initial(config)
    (shipped,) = (tmp_path / "shipped").iterdir()
    assert load_model(str(shipped)).dtype == torch.float32
    sizes = [(path / "model.safetensors").stat().st_size for path in (shipped, made)]
    assert sizes[0] < 0.6 * sizes[1]
    assert make_initial(replace(config, ship=False)) == shipped
    assert make_initial(replace(config, ship=False, seed=1)) != shipped


@pytest.mark.parametrize("task", ["gp_vl", "virl_vl"])
def test_what_comes_with_the_project_is_found_for_its_recipe(task):
    root = Path(__file__).parents[2]
    file = root / "sft" / "configs" / f"{task}_start.yaml"
    config = replace(parse_config(InitialConfig, [f"--config={file}"]), model="tiny")
    assert (root / "assets" / "start" / sft_initial._name(config) / "config.json").is_file()


def test_dialogues_on_a_puzzle_are_kept_back_together(tmp_path):
    env = EnvConfig(kwargs={"face_rule": "10"})
    records = make_dialogues([SourceConfig(env=env)], 400, seed=0, show_progress=False)
    write_jsonl(tmp_path / "data.jsonl", records)
    learned, kept = hold_back(list(read_dialogues(tmp_path / "data.jsonl")), 0.2, seed=3)
    names = [{dialogue[0].puzzle for dialogue in part} for part in (learned, kept)]
    assert not names[0] & names[1]
    assert 80 <= len(kept) <= 90
    assert len(names[1]) < len(kept)  # some puzzles come more than once
    assert hold_back(learned, 0.0, seed=3) == (learned, [])


def test_dialogues_without_a_puzzle_are_told_apart_by_their_first_prompt():
    def dialogue(text, image=None):
        return [Message("user", text, image), Message("assistant", "x")]

    dialogues = [dialogue("a")] * 5 + [dialogue("b")] * 5 + [dialogue("a", "1.png")] * 5
    learned, kept = hold_back(dialogues, 0.3, seed=0)
    assert (len(learned), len(kept)) == (10, 5)
    assert kept[0] not in learned
    with pytest.raises(InputError, match=r"leaves none of 5 dialogues on 1 puzzles"):
        hold_back(dialogues[:5], 0.2, seed=0)


def test_initial_checkpoint_of_a_task_file_lies_in_the_cache(tmp_path):
    config = InitialConfig(task=str(tmp_path / "own.yaml"), cache=str(tmp_path / "cache"))
    name = sft_initial._name(config, 2)
    assert name.startswith("own-seed0-")
    assert "/" not in name
