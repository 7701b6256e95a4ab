"""Adapters on a real tiny Llama: saved, loaded on their base, merged, and refused on another."""

import json

import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import LlamaForCausalLM

from gym_dialogue import InputError
from gym_policy import load_model
from gym_policy.models.adapter import (
    add_adapter,
    fingerprint,
    is_adapted,
    restore_adapter,
    save_adapter,
)
from gym_policy.models.merge import main, merge
from gym_policy.testing import tiny_llama, tiny_tokenizer

IDS = torch.arange(12).unsqueeze(0)


@pytest.fixture
def saved(tmp_path):
    """(base directory, adapter directory, the adapted model)"""
    base, directory = tmp_path / "base", tmp_path / "adapter"
    tokenizer = tiny_tokenizer()
    model = tiny_llama(tokenizer)
    model.save_pretrained(base)
    mark = fingerprint(model)
    adapted = add_adapter(model, str(base), 4, 8.0, 0.0, ["all-linear"])
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    save_adapter(adapted, directory, mark)
    tokenizer.save_pretrained(directory)
    return base, directory, adapted


def _logits(model):
    with torch.no_grad():
        return model(IDS).logits


def test_an_adapter_starts_as_the_identity_and_alone_is_trained():
    model = tiny_llama(tiny_tokenizer())
    before = _logits(model)
    adapted = add_adapter(model, "x/y", 4, 8.0, 0.0, ["all-linear"])
    torch.testing.assert_close(_logits(model), before)
    trained = [n for n, p in adapted.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 7 * 2  # A and B on the seven linear layers of two blocks
    assert all("lora_" in name for name in trained)
    with pytest.raises(InputError, match="targets"):
        add_adapter(tiny_llama(tiny_tokenizer()), "x/y", 4, 8.0, 0.0, ["no_such_layer"])


def test_a_saved_adapter_is_loaded_on_its_base(saved):
    base, directory, adapted = saved
    loaded = load_model(str(directory))
    assert is_adapted(loaded)
    assert not is_adapted(load_model(str(base)))
    torch.testing.assert_close(_logits(loaded), _logits(adapted.get_base_model()))
    assert (_logits(loaded) - _logits(load_model(str(base)))).abs().max() > 1e-3
    with adapted.disable_adapter():
        torch.testing.assert_close(_logits(adapted), _logits(load_model(str(base))))


def test_an_adapter_goes_back_into_a_model_that_has_one(saved):
    base, directory, adapted = saved
    other = add_adapter(load_model(str(base)), str(base), 4, 8.0, 0.0, ["all-linear"])
    restore_adapter(other, directory)
    torch.testing.assert_close(_logits(other), _logits(adapted))
    wider = add_adapter(load_model(str(base)), str(base), 8, 8.0, 0.0, ["all-linear"])
    with pytest.raises(InputError, match="does not fit"):
        restore_adapter(wider, directory)


def test_an_adapter_is_merged_on_request(saved, tmp_path, monkeypatch, capsys):
    _, directory, adapted = saved
    out = tmp_path / "merged"
    monkeypatch.setattr("sys.argv", ["adapter", str(directory), str(out)])
    main()
    merged = load_model(str(out))
    assert not is_adapted(merged)
    torch.testing.assert_close(_logits(merged), _logits(adapted), atol=1e-5, rtol=1e-4)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "already holds a model" in capsys.readouterr().err


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens"]])
def test_adapters_on_head_and_embedding_are_loaded_restored_and_merged(targets, is_tied, tmp_path):
    """Writer and checker agree on an adapter's state, and a change that is merged into
    one of two tied matrices leaves the other as it is.
    """
    base, directory, out = (tmp_path / name for name in ("base", "adapter", "merged"))
    tokenizer = tiny_tokenizer()
    config = tiny_llama(tokenizer).config
    config.tie_word_embeddings = is_tied
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(base)
    model = load_model(str(base))
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is is_tied
    mark, before = fingerprint(model), _logits(model)
    adapted = add_adapter(model, str(base), 4, 8.0, 0.0, targets)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter))
    wanted = _logits(adapted)
    assert (wanted - before).abs().max() > 0.1
    save_adapter(adapted, directory, mark)
    tokenizer.save_pretrained(directory)
    torch.testing.assert_close(_logits(load_model(str(directory))), wanted)
    other = add_adapter(load_model(str(base)), str(base), 4, 8.0, 0.0, targets)
    restore_adapter(other, directory)
    torch.testing.assert_close(_logits(other), wanted)
    merge(str(directory), str(out))
    torch.testing.assert_close(_logits(load_model(str(out))), wanted, atol=1e-4, rtol=1e-4)


def test_adapters_with_the_embeddings_beside_them_are_loaded(saved):
    """Adapted heads and embeddings are written by peft itself."""
    base, directory, _ = saved
    adapted = add_adapter(load_model(str(base)), str(base), 4, 8.0, 0.0, ["lm_head"])
    adapted.save_pretrained(str(directory), save_embedding_layers=True)
    torch.testing.assert_close(_logits(load_model(str(directory))), _logits(adapted))


@pytest.mark.parametrize("kind", [PrefixTuningConfig, PromptTuningConfig])
def test_adapters_that_are_no_layers_are_refused(kind, saved):
    """Such adapters once loaded, and did nothing."""
    base, directory, _ = saved
    config = kind(task_type="CAUSAL_LM", num_virtual_tokens=3, base_model_name_or_path=str(base))
    get_peft_model(load_model(str(base)), config).save_pretrained(str(directory))
    (directory / "base.json").unlink()
    with pytest.raises(InputError, match="puts tokens of its own before every prompt"):
        load_model(str(directory))


def test_an_adapter_for_another_base_is_one_line(saved):
    base, directory, _ = saved
    # Another model of the same shape at the same place.
    tiny_llama(tiny_tokenizer(), seed=1).save_pretrained(base)
    with pytest.raises(InputError, match="was trained on another base"):
        load_model(str(directory))
    (directory / "base.json").unlink()  # as adapters from elsewhere have none
    load_model(str(directory))
    model = tiny_llama(tiny_tokenizer())
    narrow = type(model)(type(model.config)(**model.config.to_dict() | {"intermediate_size": 32}))
    narrow.save_pretrained(base)
    with pytest.raises(InputError, match="does not fit its base") as error:
        load_model(str(directory))
    assert "\n" not in str(error.value)
    config = json.loads((directory / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": str(base.parent / "gone")})
    )
    with pytest.raises(InputError, match="gone"):
        load_model(str(directory))


def test_the_dtype_makes_no_difference_to_the_fingerprint():
    model = tiny_llama(tiny_tokenizer())
    mark = fingerprint(model)
    assert mark == fingerprint(tiny_llama(tiny_tokenizer()).to(torch.bfloat16))
    assert mark != fingerprint(tiny_llama(tiny_tokenizer(), seed=1))
