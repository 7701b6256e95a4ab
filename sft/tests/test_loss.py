"""The losses of fine-tuning, against what they are computed from directly."""

import json

import numpy as np
import pytest
import torch

from gym_dialogue.data import read_dialogues
from gym_dialogue.images import save_image
from gym_dialogue.make import EnvConfig
from gym_policy import Renderer, load_model, load_renderer
from gym_policy.models.load import save_renderer
from gym_policy.testing import (
    tiny_llama,
    tiny_mllama,
    tiny_mllama_processor,
    tiny_tokenizer,
)
from gym_policy.vision import image_inputs
from sft.config import SFTConfig
from sft.data import DialogueItems, PadRight, SourceConfig, TrainingOrder, hold_back
from sft.loss import dft_loss
from sft.train import train


def test_each_token_is_weighted_by_its_probability_without_a_gradient():
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 7, requires_grad=True)
    labels = torch.randint(0, 7, (2, 5))
    labels[0, :3] = -100
    labels[1, 4] = -100
    loss = dft_loss(logits, labels)
    loss.backward()
    expected, gradient, count = 0.0, torch.zeros_like(logits), 0
    for row in range(2):
        for at in range(1, 5):
            label = int(labels[row, at])
            if label == -100:
                continue
            chances = logits[row, at - 1].detach().softmax(-1)
            expected += -chances[label] * chances[label].log()
            count += 1
            # d(-w log p_label)/d logits = w (p - onehot), with w = p_label held fixed
            onehot = torch.nn.functional.one_hot(torch.tensor(label), 7)
            gradient[row, at - 1] = chances[label] * (chances - onehot)
    assert loss.item() == pytest.approx(float(expected) / count)
    assert torch.allclose(logits.grad, gradient / count, atol=1e-6)
    assert dft_loss(logits, labels, 2 * count).item() == pytest.approx(loss.item() / 2)
    nothing = dft_loss(logits, torch.full_like(labels, -100))
    assert nothing.item() == 0


@pytest.fixture(scope="module")
def text_start(tmp_path_factory):
    path = tmp_path_factory.mktemp("text")
    tokenizer = tiny_tokenizer()
    tiny_llama(tokenizer).save_pretrained(path)
    save_renderer(Renderer(tokenizer), path)
    return str(path)


def _settings(path, run, **changes):
    settings = {
        "sources": [SourceConfig(EnvConfig(kwargs={"verify_iter": 2}), 1, 0.5)],
        "num_dialogues": 24,
        "num_steps": 4,
        "batch_size": 8,
        "microbatch_size": 4,
        "lr": 1e-3,
    }
    return SFTConfig(**settings | {"model": path, "run_dir": str(run)} | changes)


def _losses(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return {r["update"]: r["loss"] for r in map(json.loads, lines) if "loss" in r}


def test_the_first_losses_of_a_tiny_random_model_are_pinned(text_start, tmp_path):
    expected = [5.5655813, 5.5670710, 5.4969049, 5.4498177]
    assert list(_losses(train(_settings(text_start, tmp_path / "run"))).values()) == pytest.approx(
        expected, rel=1e-5
    )


def _mean_dft(path, data, order):
    """The mean over the learned tokens of the dialogues in `order`, one dialogue at a time."""
    model, renderer = load_model(path), load_renderer(path)
    items = DialogueItems(list(read_dialogues(data)), renderer)
    pad = PadRight(renderer.tokenizer.pad_token_id)
    values = []
    for index in order:
        batch = pad([items[index]])
        inputs = image_inputs(model, batch["input_ids"], batch.get("images"))
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"], **inputs).logits[0, :-1]
        for chances, label in zip(logits.softmax(-1), batch["labels"][0, 1:], strict=True):
            if label != -100:
                values.append(-(chances[label] * chances[label].log()).item())
    return np.mean(values)


def test_dft_is_the_mean_over_the_tokens_of_a_whole_step(text_start, tmp_path):
    # Microbatches of two have different numbers of tokens: a mean of their means would differ.
    settings = _settings(text_start, tmp_path / "run", loss="dft", microbatch_size=2, num_steps=2)
    run = train(settings)
    items = DialogueItems(list(read_dialogues(run / "data.jsonl")), load_renderer(text_start))
    order = TrainingOrder(items, 8, 2, seed=0).order
    expected = _mean_dft(text_start, run / "data.jsonl", order[:8])
    assert _losses(run)[1] == pytest.approx(expected, rel=1e-4)
    plain = train(_settings(text_start, tmp_path / "nll", microbatch_size=2, num_steps=2))
    assert _losses(plain)[1] > 5 * _losses(run)[1]


def test_dft_learns_from_images_too(tmp_path):
    tokenizer = tiny_tokenizer(with_images=True)
    path = str(tmp_path / "start")
    tiny_mllama(tokenizer).save_pretrained(path)
    save_renderer(Renderer(tokenizer, tiny_mllama_processor(tokenizer)), path)
    rng = np.random.default_rng(0)
    records = []
    for number in range(4):
        save_image(tmp_path / f"{number}.png", rng.integers(0, 256, (28, 28, 3), dtype=np.uint8))
        shown = [("user", "Which?"), ("assistant", "A" * (number + 1))]
        messages = [{"role": role, "content": text} for role, text in shown]
        records.append({"messages": [messages[0] | {"image": f"{number}.png"}, messages[1]]})
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    run = train(
        _settings(
            path, tmp_path / "run", data_file=str(data), loss="dft", validation=0.25,
            num_steps=1, batch_size=3, microbatch_size=1,
        )
    )  # fmt: skip
    lines = (run / "metrics.jsonl").read_text().splitlines()
    records = list(map(json.loads, lines))
    dialogues = list(read_dialogues(data))
    _, (kept,) = hold_back(dialogues, 0.25, seed=0)
    learned = [i for i in range(4) if dialogues[i] != kept]
    assert _losses(run)[1] == pytest.approx(_mean_dft(path, data, learned), rel=1e-4)
    # An image is one token more than the words around it; evaluation measures nll.
    renderer = load_renderer(path)
    tokens = sum(len(renderer.render(dialogues[i]).token_ids) for i in learned)
    assert records[-1]["tokens"] == tokens
    assert next(r["eval_loss"] for r in records if "eval_loss" in r) > 4
