"""Data in LLaVA form: read, trained on and evaluated on; and wordings of files in SFT."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gym_cards.prompts import OWN
from gym_cards.verifier import FEEDBACK
from gym_cards.wording import derive
from gym_dialogue import InputError, Message
from gym_dialogue.data import read_dialogues
from gym_dialogue.images import save_image
from gym_dialogue.make import EnvConfig, make_envs, with_prompt_file
from gym_policy import Renderer, load_model, load_tokenizer
from sft.config import SFTConfig
from sft.data import DialogueItems, SourceConfig, hold_back, make_dialogues, write_jsonl
from sft.initial import InitialConfig, make_initial
from sft.tiny import build_model, build_tokenizer
from sft.train import train

WORDING = {
    "prompt": [
        "Solve for <<target>> {braces stay}: <<cards>>.",
        "J, Q and K are <<faces>>.",
    ],
    "cards": {"quote": "'", "separator": ", "},
    "phrases": {"faces": {"same": "<<J>>", "different": "<<J>>, <<Q>> and <<K>>"}},
    "reply": [
        "{",
        '  "cards": [<<cards>>],',
        '  "number": [<<numbers>>],',
        '  "formula": "<<formula>>=<<target>>"',
        "}",
    ],
    "feedback": {"NO_SOLUTION": "Not <<target>>; <<remaining>> more."},
}


@pytest.fixture
def wording(tmp_path):
    file = tmp_path / "wording.json"
    file.write_text(json.dumps(OWN.to_json() | WORDING))
    return str(file)


def _turns(*texts, system=None):
    turns = [{"from": "system", "value": system}] if system else []
    roles = ["human", "gpt"] * len(texts)
    return turns + [{"from": r, "value": t} for r, t in zip(roles, texts, strict=False)]


def _write(path, items):
    path.write_text(json.dumps(items, indent=2))
    return str(path)


def test_a_json_list_is_read_by_what_it_holds(tmp_path):
    items = [
        {"id": "a", "conversations": _turns("one", "two")},
        {"conversations": _turns("one", "two", "three", "four", system="Be kind.")},
        {"conversations": _turns("<im", "age>"), "image": None},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
    ]
    read = list(read_dialogues(_write(tmp_path / "any.jsonl", items)))
    assert [[m.role[0] for m in messages] for messages in read] == [
        ["u", "a"],
        ["s", "u", "a", "u", "a"],
        ["u", "a"],
        ["u", "a"],
    ]
    assert [m.text for m in read[1]] == ["Be kind.", "one", "two", "three", "four"]
    lines = "".join(json.dumps(item) + "\n" for item in items)
    (tmp_path / "lines.json").write_text(lines)
    assert list(read_dialogues(tmp_path / "lines.json")) == read


def test_every_gpt_turn_is_trained_and_nothing_else(tmp_path):
    turns = _turns("6 6 6 6?", "6+6+6-6", "No. Try again.", "6+6+6+6", system="Count.")
    (messages,) = read_dialogues(_write(tmp_path / "a.json", [{"conversations": turns}]))
    tokenizer = build_tokenizer(m.text for m in messages)
    item = DialogueItems([messages], Renderer(tokenizer))[0]
    learned = [label for label in item["labels"] if label != -100]
    assert tokenizer.decode(learned) == "6+6+6-6<|end|>6+6+6+6<|end|>"
    assert tokenizer.decode(item["rendered"].token_ids).startswith(
        "<|system|>Count.<|end|><|user|>6 6"
    )


GOOD = {"conversations": _turns("a", "b")}


@pytest.mark.parametrize(
    ("item", "word"),
    [
        ({}, "item 1: must be"),
        ("x", "item 1: must be"),
        (None, "item 1: must be"),
        ({"id": 7, "conversations": "ab"}, r"item 1 \(id 7\): must be"),
        ({"conversations": []}, "item 1: must be"),
        ({"conversations": _turns("a")}, "item 1: must be"),
        ({"conversations": _turns("a", "b", "c")}, "item 1: must be"),
        ({"conversations": _turns("a", "b")[::-1]}, "item 1: must be"),
        ({"conversations": [{"from": "human", "value": 1}, *_turns("a", "b")]}, "item 1: must"),
        ({"conversations": [{"from": ["gpt"], "value": "a"}]}, "item 1: must be"),
        ({"conversations": [{"from": "human"}, {"from": "gpt", "value": "a"}]}, "item 1: must"),
        (GOOD | {"image": "cards/3.png"}, "item 1: image .*3.png: cannot be read: No such file"),
        (GOOD | {"image": "a.json"}, "item 1: image .*a.json: is not an image file"),
        (GOOD | {"id": "n-3", "image": [7]}, r"item 1 \(id 'n-3'\): image must be the name of"),
        (GOOD | {"image": ["a.png", "b.png"]}, "item 1: image lists 2 files; a dialogue may have"),
        (GOOD | {"images": ["a"]}, "item 1: has an image beside"),
        (
            {"conversations": _turns("<image>\nWhich cards?", "b")},
            "item 1: <image> must stand once",
        ),
        ({"conversations": _turns("a", "b", "<image>", "c")}, "item 1: <image> must stand once"),
    ],
)
def test_items_that_cannot_be_used_are_named(item, word, tmp_path):
    with pytest.raises(InputError, match=word) as error:
        list(read_dialogues(_write(tmp_path / "a.json", [GOOD, item])))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("<image>\nWhich cards?", "Which cards?"),
        ("Which cards?\n<image>", "Which cards?"),
        ("<image>\n\nWhich cards?\n", "\nWhich cards?\n"),
        ("\nWhich cards?\n\n<image>", "\nWhich cards?\n"),
        ("\n<image>\nWhich cards?\n", "\nWhich cards?\n"),
        ("\nWhich cards?\n<image>\n", "\nWhich cards?\n"),
        ("<image>Which cards?\n", "Which cards?\n"),
        ("Which\n<image>\ncards?", "Which\n\ncards?"),
        ("Of <image> say which.\n", "Of  say which.\n"),
        ("\nWhich cards?\n\n", "\nWhich cards?\n\n"),
        ("<image>", ""),
    ],
)
@pytest.mark.parametrize("form", [str, lambda name: [name]])
def test_of_a_marker_nothing_stays_and_the_rest_is_as_it_was(value, text, form, tmp_path):
    (tmp_path / "pictures").mkdir()
    save_image(tmp_path / "pictures" / "a.png", np.zeros((4, 4, 3), np.uint8))
    item = {"image": form("a.png"), "conversations": _turns(value, "\nb\n")}
    data = _write(tmp_path / "a.json", [item])
    ((asked, shown),) = read_dialogues(data, tmp_path / "pictures")
    assert (asked.text, shown.text) == (text, "\nb\n")
    assert asked.image == tmp_path / "pictures" / "a.png"
    with pytest.raises(InputError, match=r"a\.png: cannot be read"):
        list(read_dialogues(data))
    with pytest.raises(InputError, match=r"image_folder=.*none: is not a directory"):
        list(read_dialogues(data, tmp_path / "none"))


@pytest.mark.parametrize("image", [{}, {"image": None}, {"image": []}, {"image": ""}])
def test_newlines_around_a_text_belong_to_it(image, tmp_path):
    record = image | {"conversations": _turns("\n\nask\n", "\nsay\n", "\nwrong\n", "say")}
    (messages,) = read_dialogues(_write(tmp_path / "a.json", [record]))
    assert [m.text for m in messages] == ["\n\nask\n", "\nsay\n", "\nwrong\n", "say"]
    assert all(m.image is None for m in messages)


@pytest.mark.parametrize(
    ("text", "word"),
    [("[", "is not a JSON list"), ("[]", "no dialogue"), ("", "no dialogue"), ("{}", "line 1")],
)
def test_files_without_dialogues(text, word, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=word):
        list(read_dialogues(tmp_path / "a.json"))


def test_a_share_is_kept_back():
    dialogues = [[Message("user", str(i))] for i in range(100)]
    learned, kept = hold_back(dialogues, 0.2, seed=0)
    assert (len(learned), len(kept)) == (80, 20)
    assert sorted(learned + kept, key=lambda d: int(d[0].text)) == dialogues
    assert hold_back(dialogues, 0.2, seed=0) == (learned, kept)
    assert hold_back(dialogues, 0.2, seed=1) != (learned, kept)
    assert hold_back(dialogues, 0.0, seed=0) == (dialogues, [])
    assert len(hold_back(dialogues, 1e-4, seed=0)[1]) == 1
    with pytest.raises(InputError, match="leaves none"):
        hold_back(dialogues[:1], 0.5, seed=0)


@pytest.fixture
def start(tmp_path):
    """A real tiny model that can spell anything, and a file in LLaVA form."""
    texts = [(f"Which follows {i}?", f"{i + 1}") for i in range(40)]
    items = [{"conversations": _turns(*text)} for text in texts]
    tokenizer = build_tokenizer(["Which follows 1?", "12"])
    build_model(len(tokenizer), 0, tokenizer.eos_token_id, seed=0).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    return str(tmp_path / "m"), _write(tmp_path / "data.json", items)


def _metrics(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {m["update"]: m for m in lines if "eval_loss" in m}


def test_training_on_such_a_file_and_evaluating_what_is_kept_back(start, tmp_path):
    model, data = start
    shared = {"model": model, "data_file": data, "num_steps": 10, "batch_size": 8, "lr": 3e-3}
    run = train(SFTConfig(run_dir=str(tmp_path / "a"), validation=0.25, save_every=4, **shared))
    actual = _metrics(run)
    assert list(actual) == [0, 4, 8, 10]
    assert actual[10]["eval_loss"] < 0.8 * actual[0]["eval_loss"]
    assert actual[0]["eval_token_accuracy"] < actual[10]["eval_token_accuracy"] <= 1
    log = EventAccumulator(str(next((run / "tensorboard").rglob("events*")).parent))
    log.Reload()
    assert [e.step for e in log.Scalars("eval/loss")] == [0, 4, 8, 10]
    assert {"eval/token_accuracy", "train/loss"} <= set(log.Tags()["scalars"])
    plain = train(SFTConfig(run_dir=str(tmp_path / "b"), **shared))
    assert _metrics(plain) == {}


def test_the_token_accuracy_is_that_of_the_model(start, tmp_path):
    path, data = start
    run = train(
        SFTConfig(
            model=path,
            data_file=data,
            run_dir=str(tmp_path / "a"),
            validation=0.5,
            num_steps=3,
            batch_size=4,
            lr=1e-3,
            seed=5,
        )
    )
    model = load_model(str(run / "checkpoints" / "update-000003"))
    _, kept = hold_back(list(read_dialogues(data)), 0.5, seed=5)
    right = total = 0
    items = DialogueItems(kept, Renderer(load_tokenizer(path)))
    for item in (items[index] for index in range(len(items))):
        logits = model(torch.tensor([item["rendered"].token_ids])).logits[0, :-1]
        for guess, label in zip(logits.argmax(-1).tolist(), item["labels"][1:], strict=True):
            total += label != -100
            right += guess == label
    assert _metrics(run)[3]["eval_token_accuracy"] == pytest.approx(right / total)


def test_faults_in_what_is_given_leave_no_run_behind(start, wording, tmp_path):
    model, data = start
    bad = _write(tmp_path / "bad.json", [GOOD, {}])
    (tmp_path / "bad_wording.json").write_text("{}")
    for kwargs, word in (
        ({"data_file": bad}, "item 1"),
        ({"data_file": str(tmp_path / "none")}, "data_file=.*no such file"),
        ({"data_file": data, "prompt_file": "none"}, "prompt_file=none: no such file"),
        ({"prompt_file": str(tmp_path / "bad_wording.json")}, "bad_wording.json, key format"),
        ({"data_file": data, "prompt_file": bad}, "bad.json, key format"),
        ({"data_file": data, "validation": 1.0}, "validation=1.0"),
        ({"data_file": data, "image_folder": "none"}, "image_folder=none: is not a directory"),
        ({"image_folder": str(tmp_path)}, "is of a data_file; name that too"),
        (
            {"data_file": "data/SFTvsRL_Data/SFT_Data/gp-l/none.json"},
            "is not there; fetch it with: bash scripts/download.sh data",
        ),
        (
            {"prompt_file": wording, "sources": [SourceConfig(EnvConfig("CartPole-v1"))]},
            "takes no argument 'prompt_file'",
        ),
    ):
        with pytest.raises(InputError, match=word):
            train(SFTConfig(model=model, run_dir=str(tmp_path / "run"), **kwargs))
        assert not (tmp_path / "run").exists()


def test_oracle_dialogues_in_the_wording_of_a_file(wording):
    env = with_prompt_file(EnvConfig(kwargs={"verify_iter": 3}), wording)
    made = make_dialogues([SourceConfig(env, error_rate=0.5)], 60, seed=0, show_progress=False)
    (judge,) = make_envs(env, 1)
    for dialogue in made:
        texts = [m["content"] for m in dialogue["messages"]]
        cards = texts[0].partition("}: ")[2].partition(".")[0]
        assert texts[0] == f"Solve for 24 {{braces stay}}: {cards}.\nJ, Q and K are 10."
        assert texts[-1].startswith('{\n  "cards": [')
        assert texts[-1].endswith('=24"\n}')
        judge.reset(options={"cards": [card.strip("' ") for card in cards.split(",")]})
        assert judge.step(texts[-1])[1] == 5
        for used, shown in enumerate(texts[2::2], start=1):
            assert shown == f"Not 24; {3 - used} more." or shown in FEEDBACK.values()
    assert any(text["content"] == "Not 24; 2 more." for d in made for text in d["messages"])


def test_a_wording_comes_back_from_the_dialogues_it_made(wording, tmp_path):
    env = with_prompt_file(EnvConfig(kwargs={"verify_iter": 3}), wording)
    made = make_dialogues([SourceConfig(env, error_rate=0.4)], 300, seed=0, show_progress=False)
    write_jsonl(tmp_path / "a.jsonl", made)
    actual = derive(read_dialogues(tmp_path / "a.jsonl")).wording.to_json()
    for key in ("prompt", "cards", "phrases", "reply"):
        assert actual[key] == WORDING[key]
    assert actual["feedback"]["NO_SOLUTION"] == WORDING["feedback"]["NO_SOLUTION"]


def test_a_start_knows_the_content_of_its_wording(wording, tmp_path):
    def make(**kwargs):
        return make_initial(
            InitialConfig(
                cache=str(tmp_path / "cache"),
                num_dialogues=60,
                num_steps=2,
                batch_size=8,
                probe_every=2,
                probe_episodes=4,
                max_new_tokens=8,
                **kwargs,
            )
        )

    first = make(prompt_file=wording, validation=0.1)
    assert make(prompt_file=wording, validation=0.1) == first
    assert yaml.safe_load((first / "config.yaml").read_text())["prompt_file"] == wording
    Path(wording).write_text(json.dumps(OWN.to_json()))
    assert make(prompt_file=wording, validation=0.1) != first
