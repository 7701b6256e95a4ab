"""Llama-3.2-Vision fed text only: checkpoints of 2024 and of today, sampling, what is trained."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gym_dialogue import Dialogue, InputError, Message
from gym_policy import ModelPolicy, Renderer, load_model, load_tokenizer
from gym_policy.logprobs import score_tokens
from gym_policy.testing import tiny_mllama, tiny_tokenizer
from gym_policy.vision import image_token_id

# Names in the module of today -> names in files that transformers wrote in autumn 2024.
OLD_NAMES = {
    "model.language_model.": "language_model.model.",
    "model.vision_model.": "vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "lm_head.": "language_model.lm_head.",
}


def _renamed(state, names):
    renamed = {}
    for key, value in state.items():
        old = next(prefix for prefix in names if key.startswith(prefix))
        renamed[names[old] + key.removeprefix(old)] = value.clone().contiguous()
    return renamed


@pytest.mark.parametrize("names", [OLD_NAMES, {key: key for key in OLD_NAMES}])
def test_checkpoints_of_2024_and_of_today_load_whole(names, tmp_path):
    model = tiny_mllama(tiny_tokenizer())
    model.save_pretrained(tmp_path)
    state = _renamed(model.state_dict(), names)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = load_model(str(tmp_path))  # refuses missing and unexpected keys
    actual = loaded.state_dict()
    assert actual.keys() == model.state_dict().keys()
    assert all(torch.equal(actual[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("fault", ["missing", "unexpected"])
def test_a_checkpoint_that_is_not_whole_is_refused(fault, tmp_path):
    model = tiny_mllama(tiny_tokenizer())
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    if fault == "missing":
        state.pop("vision_model.class_embedding")
    else:
        state["language_model.model.layers.9.mlp.up_proj.weight"] = torch.zeros(2, 2)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"{fault} keys"):
        load_model(str(tmp_path))


def test_sampled_and_recomputed_logprobs_agree():
    tokenizer = tiny_tokenizer()
    policy = ModelPolicy(tiny_mllama(tokenizer), Renderer(tokenizer), max_new_tokens=8)
    texts = ["Make 24.", "Make 24 out of these cards, please."]
    dialogues = [Dialogue([Message("user", t)], key=(i,)) for i, t in enumerate(texts)]
    for dialogue, reply in zip(dialogues, policy.act(dialogues), strict=True):
        prompt = policy.renderer.render(dialogue).token_ids
        ids = torch.tensor([[*prompt, *reply.token_ids]])
        with torch.no_grad():
            logits = policy.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        replied, forbidden = ids[0, len(prompt) :], image_token_id(policy.model)
        actual, _ = score_tokens(logits, replied, 1.0, forbidden)
        np.testing.assert_allclose(actual, reply.logprobs, atol=1e-4)


def test_the_chat_template_of_a_processor_of_2024_is_used(tmp_path):
    tokenizer = tiny_tokenizer()
    template = tokenizer.chat_template
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).chat_template != template
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert load_tokenizer(str(tmp_path)).chat_template == template
    (tmp_path / "chat_template.json").write_text("{")
    with pytest.raises(InputError, match=r"chat_template\.json"):
        load_tokenizer(str(tmp_path))
