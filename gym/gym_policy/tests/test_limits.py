"""Checkpoints that are broken, hostile, or do not fit their tokenizer: one line each."""

import json

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gym_dialogue import Dialogue, InputError, Message
from gym_policy import ModelPolicy, Renderer, load_model, load_renderer, load_tokenizer
from gym_policy.limits import max_positions
from gym_policy.models.architecture import load_architecture
from gym_policy.testing import tiny_llama, tiny_mllama, tiny_tokenizer

EVIL = """
open({mark!r}, "a").close()
from transformers import LlamaConfig, LlamaForCausalLM
class Config(LlamaConfig):
    model_type = "hostile"
class Model(LlamaForCausalLM):
    config_class = Config
"""


def _one_line(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _edit(directory, name="config.json", **changes):
    file = directory / name
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture
def saved(tmp_path):
    tokenizer = tiny_tokenizer()
    tiny_llama(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_attention_heads", 0),
        ("num_attention_heads", -4),
        ("num_attention_heads", 10**12),
        ("num_key_value_heads", 0),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", 10**9),
        ("hidden_size", 10**12),
        ("head_dim", 0),
        ("vocab_size", -1),
        ("vocab_size", 10**12),
        ("dtype", "none"),
        ("dtype", "float99"),
        ("dtype", "Linear"),
        ("dtype", []),
        ("model_type", []),
        ("model_type", "no_such_model"),
        ("rope_parameters", 3),
    ],
)
def test_impossible_configurations_are_one_line(key, value, saved):
    _edit(saved, **{key: value})
    with pytest.raises(InputError, match=str(saved)) as caught:
        load_model(str(saved))
    _one_line(caught)
    if not key.startswith(("dtype", "rope")):
        with pytest.raises(InputError, match=str(saved)):
            load_architecture(str(saved))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_are_no_numbers_are_said_to_be(value, dtype, saved):
    """Weights that are no numbers once ended in "index 391 is out of bounds"."""
    model = load_model(str(saved))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = value
    model.save_pretrained(saved)
    with pytest.raises(InputError, match=r"not all finite numbers \(model\.layers\.1\.mlp\.up"):
        load_model(str(saved), dtype)


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("name", ["cached", "generate"])
def test_logits_that_are_no_numbers_are_said_to_be(name, greedy, saved):
    """Logits that are no numbers: of weights too large for their precision, say."""
    model, renderer = load_model(str(saved)), load_renderer(str(saved))
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    policy = ModelPolicy(model, renderer, max_new_tokens=4, greedy=greedy, sampler=name)
    with pytest.raises(InputError, match="the weights may have diverged") as caught:
        policy.act([Dialogue([Message("user", "a")], key=(0,))])
    _one_line(caught)


def test_code_that_comes_with_a_checkpoint_runs_only_on_request(saved, tmp_path, monkeypatch):
    """transformers would ask on a terminal."""
    mark = tmp_path / "it-ran"
    (saved / "evil.py").write_text(EVIL.format(mark=str(mark)))
    auto = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    _edit(saved, model_type="hostile", auto_map=auto)
    own = {"tokenizer_class": "Tokenizer", "auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}
    _edit(saved, "tokenizer_config.json", **own)

    def ask(*_):
        raise AssertionError("a question on the terminal")

    monkeypatch.setattr("builtins.input", ask)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    for load in (load_model, load_tokenizer, load_renderer, load_architecture):
        with pytest.raises(InputError, match="pass --trust_remote_code") as caught:
            load(str(saved))
        _one_line(caught)
    assert not mark.exists()
    model = load_model(str(saved), trust_remote_code=True)
    assert type(model).__name__ == "Model"
    assert mark.exists()


def test_a_token_beyond_the_embedding_is_one_line():
    tokenizer = tiny_tokenizer()
    model = tiny_llama(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|extra|>"]})
    tokenizer.chat_template = "<|extra|>" + tokenizer.chat_template
    policy = ModelPolicy(model, Renderer(tokenizer), max_new_tokens=4)
    rows = model.get_input_embeddings().num_embeddings
    with pytest.raises(InputError, match=f"the token {rows}, and .* ends at {rows - 1}") as caught:
        policy.act([Dialogue([Message("user", "a")], key=(0,))])
    _one_line(caught)


def _gpt2(tokenizer, positions):
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=positions, n_embd=32, n_layer=1, n_head=2
    )
    return GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize(("room", "fits"), [(0, True), (1, False)])
def test_a_prompt_beyond_the_models_positions_is_one_line(room, fits):
    """A prompt counts with the reply that it asks for."""
    tokenizer = tiny_tokenizer()
    renderer = Renderer(tokenizer)
    dialogue = Dialogue([Message("user", "Make 24.")], key=(0,))
    length = len(renderer.render(dialogue).token_ids)
    policy = ModelPolicy(_gpt2(tokenizer, length + 8), renderer, max_new_tokens=8 + room)
    if fits:
        assert policy.act([dialogue])
        return
    with pytest.raises(InputError, match=f"{length} tokens and 9 .*{length + 8} positions") as c:
        policy.act([dialogue])
    _one_line(c)


def test_positions_are_those_that_a_configuration_stretches_to():
    tokenizer = tiny_tokenizer(with_images=True)
    config = tiny_llama(tokenizer).config
    assert max_positions(config) == 2048
    assert max_positions(tiny_mllama(tokenizer).config) == 131072
    config.rope_parameters = {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 2048,
    }
    assert max_positions(config) == 8192
