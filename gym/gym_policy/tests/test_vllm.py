"""The sampler of vLLM servers, against a server that speaks the same protocol."""

import copy

import pytest
import torch

import gym_cards  # noqa: F401 - registers the environment
from gym_dialogue import InputError, Task, rollout
from gym_dialogue.make import EnvConfig, make_envs
from gym_policy import ModelPolicy, Renderer
from gym_policy.models.adapter import add_adapter, save_adapter
from gym_policy.samplers.engine import Engine
from gym_policy.samplers.testing import running_engine
from gym_policy.samplers.vllm import VllmSampler, merged_state, write_weights
from gym_policy.testing import tiny_llama, tiny_tokenizer
from gym_policy.ties import untied
from sft.tiny import build_model


@pytest.fixture
def tokenizer():
    return tiny_tokenizer()


def _model(tokenizer, seed=0):
    """A tiny Llama whose output head is its embedding."""
    return build_model(len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id, seed).eval()


def _play(model, tokenizer, sampler, greedy=False):
    policy = ModelPolicy(
        model, Renderer(tokenizer), max_new_tokens=6, greedy=greedy, sampler=sampler
    )
    envs = make_envs(EnvConfig(kwargs={"verify_iter": 2}), 4)
    return rollout(envs, policy, [Task(i, (1, i)) for i in range(6)])


def _ids(episodes):
    return [turn.reply.token_ids for episode in episodes for turn in episode.turns]


def _changed(model):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


def test_replies_are_those_of_the_models_own_sampler(tokenizer):
    model = _model(tokenizer)
    with running_engine(copy.deepcopy(model)) as server:
        sampler = VllmSampler(model, [server.address])
        assert _ids(_play(model, tokenizer, sampler, greedy=True)) == _ids(
            _play(model, tokenizer, "cached", greedy=True)
        )
        first = _play(model, tokenizer, sampler)
        assert _ids(first) == _ids(_play(model, tokenizer, sampler))  # a request has its seed
        assert len(set(_ids(first))) > 1
        reply = first[0].turns[0].reply
        prompt = Renderer(tokenizer).render(first[0].dialogues[0].messages[:1]).token_ids
        scored = sampler._score([*prompt, *reply.token_ids])[len(prompt) - 1 :]
        assert reply.logprobs == pytest.approx(scored, abs=1e-4)


def test_weights_arrive_with_their_version(tokenizer, tmp_path):
    model = _model(tokenizer)
    with running_engine(copy.deepcopy(model)) as server:
        sampler = VllmSampler(model, [server.address], tmp_path)
        before = _ids(_play(model, tokenizer, sampler, greedy=True))
        _changed(model)
        sampler.update("1", [[65, 66, 67]])
        after = _ids(_play(model, tokenizer, sampler, greedy=True))
        assert after != before
        assert after == _ids(_play(model, tokenizer, "cached", greedy=True))
        order = [call for call in server.calls if call != "/inference/v1/generate"]
        assert order == [
            "/pause",
            "/collective_rpc",
            "/reset_prefix_cache",
            "/update_weight_version",
            "/resume",
        ]
        sampler.update("2", [[65, 66, 67]])
        assert [path.name for path in tmp_path.iterdir()] == ["version-2"]


def test_head_that_stays_behind_is_found_by_the_probe(tokenizer):
    model = _model(tokenizer)
    served = tiny_llama(tokenizer)  # has a head of its own
    with running_engine(served, ties_head=True) as server:
        own = tiny_llama(tokenizer)
        sampler = VllmSampler(own, [server.address])
        sampler.update("1", [[65, 66, 67]])  # nothing has changed
        _changed(own)
        with pytest.raises(InputError, match=r"has not taken the weights: .* nats a token"):
            sampler.update("2", [[65, 66, 67]])
    assert model.config.tie_word_embeddings


def test_server_that_starts_anew_gets_the_weights_again(tokenizer):
    model = _model(tokenizer)
    initial = copy.deepcopy(model)
    _changed(model)
    with running_engine(copy.deepcopy(initial)) as server:
        sampler = VllmSampler(model, [server.address])
        sampler.update("5", [[65, 66, 67]])

        def restart():
            server.model.load_state_dict(initial.state_dict())
            server.version = "default"

        server.drops, server.on_drop = 1, restart
        assert _ids(_play(model, tokenizer, sampler, greedy=True)) == _ids(
            _play(model, tokenizer, "cached", greedy=True)
        )
        assert server.version == "5"
        assert server.calls.count("/collective_rpc") == 2


def test_replies_by_other_weights_are_never_returned(tokenizer, monkeypatch):
    model = _model(tokenizer)
    with running_engine(copy.deepcopy(model)) as server:
        sampler = VllmSampler(model, [server.address])
        sampler.update("5", [[65, 66, 67]])
        monkeypatch.setattr(server, "reload", lambda folder: None)
        monkeypatch.setattr(VllmSampler, "_send", lambda self, engine: None)
        server.version = "4"
        with pytest.raises(InputError, match="were not answered by the newest weights"):
            _play(model, tokenizer, sampler)


def test_prompts_are_spread_over_the_servers(tokenizer):
    model = _model(tokenizer)
    with running_engine(model) as first, running_engine(model) as second:
        _play(model, tokenizer, VllmSampler(model, [first.address, second.address]))
        assert first.requests
        assert second.requests


def test_weights_of_an_adapter_are_written_merged(tokenizer, tmp_path):
    model = _model(tokenizer)
    adapted = add_adapter(model, "base", 2, 4.0, 0.0, ["q_proj", "lm_head"])
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    expected = model(torch.tensor([[65, 66, 67]])).logits
    write_weights(model, tmp_path / "merged")
    fresh = _model(tokenizer, seed=1)
    fresh.lm_head.weight = torch.nn.Parameter(fresh.lm_head.weight.detach().clone())
    from safetensors.torch import load_file

    fresh.load_state_dict(load_file(tmp_path / "merged" / "model.safetensors"))
    torch.testing.assert_close(fresh(torch.tensor([[65, 66, 67]])).logits, expected)
    assert not any("lora" in name for name in merged_state(model))
    with untied(model):
        assert not model.config.tie_word_embeddings
    assert model.config.tie_word_embeddings


def test_adapter_alone_is_sent_where_the_server_takes_it(tokenizer, tmp_path):
    model = _model(tokenizer)
    base = copy.deepcopy(model)
    adapted = add_adapter(model, "base", 2, 4.0, 0.0, ["q_proj", "up_proj"])

    def train():
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:
                    parameter.normal_()

    with (
        running_engine(copy.deepcopy(base), takes_adapters=True) as server,
        running_engine(copy.deepcopy(base)) as other,
    ):
        sampler = VllmSampler(model, [server.address, other.address], tmp_path)
        sampler.write_adapter = lambda folder: save_adapter(adapted, folder, None)
        for version in ("1", "2"):
            train()
            sampler.update(version, [[65, 66, 67]])
            assert list(server.adapters) == [f"version-{version}"]
            assert _ids(_play(model, tokenizer, sampler, greedy=True)) == _ids(
                _play(model, tokenizer, "cached", greedy=True)
            )
        assert "/collective_rpc" not in server.calls
        assert other.calls.count("/collective_rpc") == 2
        torch.testing.assert_close(server.model.state_dict(), base.state_dict())
        server.adapters.clear()  # as one that has started anew
        assert _ids(_play(model, tokenizer, sampler, greedy=True)) == _ids(
            _play(model, tokenizer, "cached", greedy=True)
        )
        assert list(server.adapters) == ["version-2"]


def test_no_server_is_one_line(tokenizer, monkeypatch):
    model = _model(tokenizer)
    with pytest.raises(InputError, match="name the servers with --engines"):
        VllmSampler(model, [])
    with pytest.raises(InputError, match=r"no server answers at .*scripts/serve\.sh"):
        Engine("http://127.0.0.1:9", patience=0.1).wait()
