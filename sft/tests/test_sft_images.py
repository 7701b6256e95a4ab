"""SFT on dialogues with images: data files, batches, a start that sees, and faults in images."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import yaml

from gym_command.run_dir import saved_checkpoints
from gym_dialogue import InputError, Message
from gym_dialogue.data import read_dialogues
from gym_dialogue.images import MAX_PIXELS, open_image, save_image
from gym_dialogue.make import EnvConfig
from gym_policy import Renderer, load_model, load_renderer
from gym_policy.models.testing import ARCHITECTURES, save_architecture
from gym_policy.parts import part_of
from gym_policy.sequence_images import image_token
from sft.config import SFTConfig
from sft.data import (
    DialogueItems,
    PadRight,
    SourceConfig,
    TrainingOrder,
    bucketed_order,
    make_dialogues,
    write_jsonl,
)
from sft.initial import InitialConfig, make_initial
from sft.train import train

ROOT = Path(__file__).parents[2]
SEEN = {"language_only": False, "resolution": 56, "face_cards_color": "black", "verify_iter": 3}


def _source(error_rate=0.0, share=1.0, **kwargs):
    return SourceConfig(EnvConfig(kwargs=SEEN | kwargs), share, error_rate)


TEXT = SourceConfig(EnvConfig(kwargs={"verify_iter": 3}))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A start that has seen images and text; it has learned next to nothing."""
    return make_initial(
        InitialConfig(
            cache=str(tmp_path_factory.mktemp("cache")),
            sources=[_source(0.5), _source(recognition_only=True), TEXT],
            num_dialogues=120,
            num_steps=2,
            batch_size=8,
            lr=1e-3,
        )
    )


def test_oracle_dialogues_keep_their_images(tmp_path):
    made = make_dialogues([_source(0.5), TEXT], 40, 0, tmp_path / "images", show_progress=False)
    write_jsonl(tmp_path / "data.jsonl", made)
    dialogues = list(read_dialogues(tmp_path / "data.jsonl"))
    assert len(dialogues) == len(made)
    images = [messages[0].image for messages in dialogues if messages[0].image is not None]
    assert 10 < len(images) < len(dialogues)
    assert len(set(images)) == len(images)
    assert all(open_image(image).shape == (56, 56, 3) for image in images)
    assert not any(m.image for messages in dialogues for m in messages[1:])
    for messages in dialogues:
        assert ("Look at the image" in messages[0].text) == (messages[0].image is not None)


def test_images_need_a_place():
    with pytest.raises(ValueError, match="image_dir"):
        make_dialogues([_source()], 2, 0, show_progress=False)


def test_batches_of_dialogues_with_and_without_images(start, tmp_path):
    made = make_dialogues([_source(), TEXT], 12, 0, tmp_path / "images", show_progress=False)
    write_jsonl(tmp_path / "data.jsonl", made)
    renderer = load_renderer(str(start))
    items = DialogueItems(list(read_dialogues(tmp_path / "data.jsonl")), renderer)
    batch = PadRight(renderer.tokenizer.pad_token_id)([items[i] for i in range(len(items))])
    rows = batch["images"]["rows"].tolist()
    assert rows == [i for i, has in enumerate(items.has_image) if has]
    image_token = renderer.tokenizer.convert_tokens_to_ids("<|image|>")
    starts = batch["input_ids"][rows, batch["images"]["starts"]]
    assert (starts == image_token).all()
    assert len(batch["images"]["pixel_values"]) == len(rows)
    assert "images" not in PadRight(0)([items[items.has_image.index(False)]])
    order = TrainingOrder(items, 4, 6, seed=0, together=2)
    assert len(order) == 24


def test_batches_taken_together_are_of_similar_length():
    lengths = np.array([10] * 64 + [90] * 64)
    order = bucketed_order(lengths, 4, 64, np.random.default_rng(0), together=2)
    pairs = lengths[order].reshape(-1, 2, 4).mean(axis=2)
    assert (abs(pairs[:, 0] - pairs[:, 1]) < 1).mean() > 0.9


@pytest.mark.parametrize("freeze", [[], ["vision"]])
def test_training_on_images(freeze, start, tmp_path):
    run = train(
        SFTConfig(
            model=str(start),
            run_dir=str(tmp_path / "run"),
            task="gp_vl",
            sources=[_source(), TEXT],
            num_dialogues=40,
            num_steps=3,
            batch_size=8,
            lr=1e-3,
            part_lr={"projector": 1e-2},
            freeze=freeze,
            validation=0.2,
        )
    )
    before, after = (load_model(path).state_dict() for path in saved_checkpoints(str(run)))
    changed = {part_of(name) for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"vision", "projector", "language"} - set(freeze)
    load_renderer(saved_checkpoints(str(run))[-1]).require_images("the task")
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("eval_token_accuracy" in record for record in metrics)
    assert len(list((run / "images").glob("*.png"))) == 20
    assert yaml.safe_load((run / "config.yaml").read_text())["task"] == "gp_vl"


@pytest.mark.parametrize("kind", ["qwen3_vl", "gemma3", "smolvlm", "internvl", "llava_next"])
def test_training_on_images_of_other_architectures(kind, tmp_path):
    save_architecture(kind, tmp_path / kind)
    run = train(
        SFTConfig(
            model=str(tmp_path / kind),
            run_dir=str(tmp_path / "run"),
            task="gp_vl",
            sources=[_source(), _source(resolution=84), TEXT],  # images of two sizes, and none
            num_dialogues=24,
            num_steps=2,
            batch_size=8,
            lr=1e-3,
        )
    )
    before, after = (load_model(path).state_dict() for path in saved_checkpoints(str(run)))
    changed = {part_of(name) for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"vision", "projector", "language"}
    load_renderer(saved_checkpoints(str(run))[-1]).require_images("the task")


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_no_loss_falls_on_the_tokens_of_an_image(kind):
    model, tokenizer, processor = ARCHITECTURES[kind](0)
    image = np.random.default_rng(0).integers(0, 256, (56, 84, 3), dtype=np.uint8)
    dialogue = [Message("user", "Look.", image), Message("assistant", "7")]
    (item,) = DialogueItems([dialogue], Renderer(tokenizer, processor), learns_prompts=True)
    of_image = image_token(model.config)
    assert item["rendered"].token_ids.count(of_image) >= 1
    assert of_image not in item["labels"]
    assert sum(label != -100 for label in item["labels"]) > 5


def test_an_image_of_a_llava_record_is_seen_and_its_marker_is_not(start, tmp_path):
    save_image(tmp_path / "a.png", np.full((80, 60, 3), 200, np.uint8))
    turns = [{"from": "human", "value": "<image>\nWhich cards?"}, {"from": "gpt", "value": "None."}]
    file = tmp_path / "a.json"
    file.write_text(json.dumps([{"image": "a.png", "conversations": turns}]))
    (messages,) = read_dialogues(file)
    assert (messages[0].text, messages[0].image) == ("Which cards?", tmp_path / "a.png")
    rendered = load_renderer(str(start)).render(messages)
    assert rendered.processed_image is not None
    without = replace(messages[0], image=None)
    assert load_renderer(str(start)).render([without, *messages[1:]]).processed_image is None


def _broken(path):
    save_image(path, np.zeros((64, 64, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:-30])


def _huge(path):
    PIL.Image.new("1", (8100, 8100)).save(path)
    assert MAX_PIXELS < 8100**2


def _bomb(path):
    PIL.Image.new("1", (20000, 20000)).save(path)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda path: None, "cannot be read"),
        (lambda path: path.write_text("x"), "not an image file"),
        (_huge, "8100 x 8100 pixels"),
        (_bomb, "is huge"),
        (_broken, "is broken"),
    ],
    ids=["missing", "text", "huge", "bomb", "broken"],
)
def test_images_that_cannot_be_used(make, word, tmp_path):
    make(tmp_path / "a.png")
    record = {"role": "user", "content": "Look.", "image": "a.png"}
    file = tmp_path / "a.jsonl"
    file.write_text(
        json.dumps({"messages": [record, {"role": "assistant", "content": "Yes."}]}) + "\n"
    )
    with pytest.raises(InputError, match=word) as error:
        open_image(next(read_dialogues(file))[0].image)
    assert "a.png" in str(error.value)


def test_only_the_first_user_message_may_have_an_image(tmp_path):
    save_image(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    texts = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    messages = [{"role": role, "content": text} for role, text in texts]
    messages[2]["image"] = "a.png"
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"messages": messages}) + "\n")
    with pytest.raises(InputError, match="line 1: has an image beside"):
        list(read_dialogues(file))


def test_a_text_model_given_images_leaves_no_run_behind(tmp_path):
    text_start = make_initial(
        InitialConfig(
            cache=str(tmp_path / "cache"), sources=[TEXT], num_dialogues=40, num_steps=1,
            batch_size=8, lr=1e-3,
        )
    )  # fmt: skip
    run = tmp_path / "run"
    settings = {"model": str(text_start), "run_dir": str(run), "sources": [_source()]}
    with pytest.raises(InputError, match=r"shows images, and the model .* reads text only"):
        train(SFTConfig(num_dialogues=8, **settings))
    assert not run.exists()


def test_batches_without_images_keep_deepspeed_in_step(start, tmp_path):
    run = tmp_path / "run"
    settings = SFTConfig(
        model=str(start),
        run_dir=str(run),
        sources=[_source(share=0.2), TEXT],
        num_dialogues=40,
        num_steps=3,
        batch_size=4,
        microbatch_size=2,
        lr=1e-3,
    )
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(asdict(settings)))
    how = str(ROOT / "scripts" / "accelerate" / "cpu_zero2_2proc.yaml")
    command = [sys.executable, "-m", "gym_command.launch", how, "sft.train"]
    done = subprocess.run(
        [*command, f"--config={tmp_path / 'run.yaml'}"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    before, after = (load_model(path).state_dict() for path in saved_checkpoints(str(run)))
    changed = {part_of(name) for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"vision", "projector", "language"}
