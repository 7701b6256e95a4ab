"""Configurations without weights, and the shapes that follow from them."""

import json
import re

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import LlamaConfig, MllamaConfig

from gym_dialogue import InputError
from gym_policy import load_model
from gym_policy.models import architecture
from gym_policy.models.architecture import (
    empty_model,
    load_architecture,
    text_parameters,
    text_sizes,
)
from gym_policy.testing import tiny_llama, tiny_mllama, tiny_tokenizer
from gym_policy.training.freezing import freeze_unreached


def count(parameters):
    return sum(parameter.numel() for parameter in parameters)


@pytest.fixture
def no_network(monkeypatch):
    """The hub's cache as it is, and nothing beyond it; a list of what was asked of the hub."""
    asked = []
    download = architecture.snapshot_download

    def offline(name, local_files_only=False, **kwargs):
        if local_files_only:
            return download(name, local_files_only=True, **kwargs)
        asked.append(name)
        raise LocalEntryNotFoundError("no connection\nat all")

    monkeypatch.setattr(architecture, "snapshot_download", offline)
    return asked


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # As the hub counts them; the base model differs in the side of its images alone.
        ("meta-llama/Llama-3.2-11B-Vision-Instruct", 10_670_220_835),
        ("tianzhechu/GP-L-Init", 10_670_220_835),
        ("meta-llama/Llama-3.2-11B-Vision", 10_642_941_475),
    ],
)
def test_the_known_model_needs_no_network(name, parameters, no_network):
    config = load_architecture(name)
    assert no_network == []
    if not architecture.local_directory(name):
        assert "not on this machine" in config.name_or_path
    model = empty_model(config)
    assert count(model.parameters()) == parameters
    # The text part is Llama-3.1-8B with eight more embeddings.
    assert count(text_parameters(model)) == 8_030_261_248 + 8 * 4096
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_the_sizes_of_the_known_model():
    config = load_architecture("tianzhechu/GP-VL-Init")
    assert config.text_config.num_hidden_layers == 40
    assert config.text_config.cross_attention_layers == [3, 8, 13, 18, 23, 28, 33, 38]
    vision = config.vision_config
    assert (vision.num_hidden_layers, vision.num_global_layers) == (32, 8)
    assert (vision.hidden_size, vision.image_size) == (1280, 560)
    sizes = text_sizes(config)
    assert (sizes.layers, sizes.hidden, sizes.heads, sizes.queries) == (32, 4096, 32, 4096)
    assert (sizes.keys, sizes.feed_forward, sizes.vocabulary) == (1024, 14336, 128256)


@pytest.mark.parametrize("make", [tiny_llama, tiny_mllama])
@pytest.mark.parametrize("tied", [False, True])
def test_an_empty_model_has_the_shapes_of_the_real_one(make, tied):
    real = make(tiny_tokenizer())
    if tied:
        real.config.get_text_config().tie_word_embeddings = True
        real.config.tie_word_embeddings = True
        real = type(real)(real.config)
    empty = empty_model(real.config)
    shapes = [[(n, p.shape) for n, p in m.named_parameters()] for m in (real, empty)]
    assert shapes[0] == shapes[1]
    names = {name for name, _ in shapes[0]}
    assert ("lm_head.weight" in names) == (not tied or make is tiny_mllama)


@pytest.mark.parametrize("make", [tiny_llama, tiny_mllama])
def test_text_passes_through_what_training_does_not_freeze(make):
    model = make(tiny_tokenizer())
    freeze_unreached(model)
    reached = {id(p) for p in text_parameters(model)}
    assert reached == {id(p) for p in model.parameters() if p.requires_grad}


def test_what_a_configuration_does_not_name_is_as_in_gpt2():
    from transformers import GPT2Config

    sizes = text_sizes(GPT2Config(n_embd=48, n_head=3, n_layer=2, vocab_size=99))
    assert (sizes.queries, sizes.keys, sizes.feed_forward, sizes.layers) == (48, 48, 192, 2)


def test_directories_runs_and_adapters_are_read(tmp_path):
    start = tmp_path / "start"
    tiny_llama(tiny_tokenizer()).config.save_pretrained(start)
    run = tmp_path / "run"
    LlamaConfig(hidden_size=64).save_pretrained(run / "checkpoints" / "update-000003")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(start)})
    )
    assert load_architecture(str(start)).hidden_size == 32
    assert load_architecture(str(run)).hidden_size == 64
    assert load_architecture(str(adapter)).hidden_size == 32
    (adapter / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "tianzhechu/GP-L-Init"})
    )
    assert isinstance(load_architecture(str(adapter)), MllamaConfig)


@pytest.mark.parametrize(
    ("file", "text", "word"),
    [
        ("config.json", "{", "config.json cannot be read"),
        ("config.json", '{"model_type": "of my own"}', "of my own"),
        ("config.json", '{"model_type": "llama", "hidden_size": "many"}', "hidden_size"),
        ("adapter_config.json", "{}", "names no base model"),
        ("adapter_config.json", '{"base_model_name_or_path": "HERE"}', "is itself an adapter"),
        ("adapter_config.json", '{"base_model_name_or_path": "./gone"}', "no such directory"),
    ],
)
def test_a_configuration_that_cannot_be_had_is_named(tmp_path, file, text, word):
    (tmp_path / file).write_text(text.replace("HERE", str(tmp_path)))
    with pytest.raises(InputError, match=re.escape(word)):
        load_architecture(str(tmp_path))


def test_an_unknown_name_without_network_is_one_line(no_network):
    with pytest.raises(InputError, match="someone/model-not-here") as caught:
        load_architecture("someone/model-not-here")
    assert no_network == ["someone/model-not-here"]
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such directory"):
        load_architecture("./not-here")


def test_half_of_a_model_in_the_cache_is_no_configuration(no_network, tmp_path, monkeypatch):
    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setattr(architecture, "local_directory", lambda _: tmp_path)
    with pytest.raises(InputError, match="the hub did not give it"):
        load_architecture("someone/model-not-here")


def test_empty_models_take_no_memory():
    config = LlamaConfig(hidden_size=8192, num_hidden_layers=2, intermediate_size=28672)
    model = empty_model(config)
    assert count(model.parameters()) > 10**9
    assert all(p.device == torch.device("meta") for p in model.parameters())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hidden_act": "nothing"}, "no model can be made of its config.json: KeyError 'nothing'"),
        ({"pad_token_id": 10**6}, "no model can be made of its config.json: Padding_idx"),
        ({"dtype": 3}, "config.json: dtype=3: is no type of weights"),
        ({"dtype": "uint8"}, "config.json: dtype=torch.uint8: is no type of weights"),
        ({"num_hidden_layers": 9999}, "num_hidden_layers=9999: must be from 1 to 1000"),
    ],
)
def test_a_configuration_of_no_model_is_one_line(tmp_path, settings, said):
    """Each of these once ended in a traceback, or did not end."""
    LlamaConfig(hidden_size=32, num_attention_heads=2, num_hidden_layers=1).save_pretrained(
        tmp_path
    )
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    with pytest.raises(InputError, match=re.escape(said)):
        empty_model(load_architecture(str(tmp_path)))


def test_an_adapter_of_an_adapter_is_one_line(tmp_path):
    settings = {"base_model_name_or_path": str(tmp_path), "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="is itself an adapter"):
        load_model(str(tmp_path))
