"""KL divergence between two checkpoints, against a direct computation."""

import json

import pytest
import torch

from evaluation.divergence import DivergenceConfig, divergence, main
from evaluation.play import evaluation_tasks
from gym_dialogue import InputError, rollout
from gym_dialogue.make import EnvConfig, make_envs
from gym_policy import ModelPolicy, Renderer, logprobs
from gym_policy.models.load import save_renderer
from gym_policy.testing import (
    tiny_llama,
    tiny_mllama,
    tiny_mllama_processor,
    tiny_tokenizer,
)

TEMPERATURE = 0.7


def _policy(model, renderer):
    return ModelPolicy(model, renderer, temperature=TEMPERATURE, max_new_tokens=6)


@pytest.fixture(scope="module")
def pair():
    tokenizer = tiny_tokenizer()
    models = [tiny_llama(tokenizer, seed) for seed in (0, 1)]
    for model in models:  # distributions that are not flat
        model.get_output_embeddings().weight.data *= 10
    return [_policy(model, Renderer(tokenizer)) for model in models]


def _setting(**kwargs):
    envs = make_envs(EnvConfig(kwargs={"verify_iter": 2} | kwargs), 3)
    return envs, evaluation_tasks(0, 0, 5)


def _direct(sampled, other, episodes):
    """sum KL(sampled || other) by torch, dialogue by dialogue, over all logits of the model."""
    total, tokens = 0.0, 0
    for episode in episodes:
        for dialogue in episode.dialogues:
            ids = sampled.renderer.render(dialogue)
            inputs = {}
            if ids.processed_image is not None:
                inputs = dict(ids.processed_image.tensors)
                mask = torch.zeros(1, len(ids.token_ids), 1, 2, dtype=torch.long)
                mask[:, ids.image_at :] = ids.processed_image.tensors["aspect_ratio_mask"]
                inputs["cross_attention_mask"] = mask
            tables = []
            for policy in (sampled, other):
                with torch.no_grad():
                    model = policy.model
                    logits = model(input_ids=torch.tensor([ids.token_ids]), **inputs).logits[0]
                logits = logits.double() / TEMPERATURE
                if policy.decoding.suppressed is not None:
                    logits[:, policy.decoding.suppressed] = -1e30
                tables.append(logits.log_softmax(-1))
            at = [i - 1 for i, turn in enumerate(ids.turn) if turn >= 0]
            p, q = (table[at] for table in tables)
            total += torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum").item()
            tokens += len(at)
    return total, tokens


def test_divergence_of_a_policy_from_itself_is_zero(pair):
    measured = divergence(pair[0], pair[0], *_setting())
    assert measured["forward_per_token"] == measured["reverse_per_token"] == 0
    assert measured["forward_tokens"] == measured["reverse_tokens"] > 0


def test_divergence_is_the_sum_over_the_vocabulary_at_every_token_of_replies(pair, monkeypatch):
    envs, tasks = _setting()
    measured = divergence(*pair, envs, tasks)
    for name, (sampled, other) in (("forward", pair), ("reverse", pair[::-1])):
        episodes = rollout(envs, sampled, tasks)
        total, tokens = _direct(sampled, other, episodes)
        replies = sum(len(episode.turns) for episode in episodes)
        assert measured[f"{name}_tokens"] == tokens
        assert measured[f"{name}_replies"] == replies == 10
        assert measured[f"{name}_per_token"] == pytest.approx(total / tokens, rel=1e-4)
        assert measured[f"{name}_per_reply"] == pytest.approx(total / replies, rel=1e-4)
        records = measured["episodes"][name]
        assert [record["puzzle"] for record in records] == [e.puzzle for e in episodes]
        assert sum(record["kl"] for record in records) == pytest.approx(total, rel=1e-4)
    assert measured["forward_per_token"] != pytest.approx(measured["reverse_per_token"], rel=1e-2)
    assert measured["forward_per_token"] > 0.1
    # The start's episodes may be given, and the logits come in parts.
    monkeypatch.setitem(logprobs.LOGITS_AT_ONCE, "cpu", 1)
    again = divergence(*pair, envs, tasks, from_start=rollout(envs, pair[0], tasks))
    assert again["forward_per_token"] == pytest.approx(measured["forward_per_token"], rel=1e-6)


def test_divergence_of_models_that_see_is_the_sum_too(monkeypatch):
    tokenizer = tiny_tokenizer(with_images=True)
    renderer = Renderer(tokenizer, tiny_mllama_processor(tokenizer))
    pair = []
    for seed in (0, 1):
        model = tiny_mllama(tokenizer, seed)
        model.get_output_embeddings().weight.data *= 10
        pair.append(_policy(model, renderer))
    envs, tasks = _setting(language_only=False, resolution=56, verify_iter=1)
    measured = divergence(*pair, envs, tasks)
    total, tokens = _direct(*pair, rollout(envs, pair[0], tasks))
    assert measured["forward_per_token"] == pytest.approx(total / tokens, rel=1e-4)


def test_policies_that_do_not_compare_are_refused(pair):
    other = tiny_tokenizer(with_images=True)
    seeing = _policy(tiny_llama(other), Renderer(other))
    with pytest.raises(InputError, match="different vocabularies"):
        divergence(pair[0], seeing, *_setting())
    hotter = ModelPolicy(pair[1].model, pair[1].renderer, temperature=1.0)
    with pytest.raises(InputError, match="same temperature"):
        divergence(pair[0], hotter, *_setting())


def test_command_prints_and_writes_what_was_measured(pair, tmp_path, capsys):
    paths = [str(tmp_path / name) for name in ("start", "end")]
    for policy, path in zip(pair, paths, strict=True):
        policy.model.save_pretrained(path)
        save_renderer(policy.renderer, path)
    settings = {"start": paths[0], "episodes": 4, "max_new_tokens": 4, "batch_size": 4}
    out = tmp_path / "kl.json"
    main(DivergenceConfig(checkpoints=paths, suite="rule_ood", out=str(out), **settings))
    lines = capsys.readouterr().out.splitlines()
    printed = [line for path in paths for line in lines if line.startswith(f"{path}: ")]
    assert "forward 0.00000 nats a token, 0.0000 a reply" in printed[0]
    results = json.loads(out.read_text())
    assert list(results["checkpoints"]) == paths
    assert results["suite"] == "rule_ood"
    measured = results["checkpoints"][paths[1]]
    assert f"reverse {measured['reverse_per_token']:.5f}" in printed[1]
    assert len(measured["episodes"]["forward"]) == 4
    with pytest.raises(InputError, match="suite=none: must be one of id, heldout"):
        main(DivergenceConfig(checkpoints=paths, suite="none", **settings))
    with pytest.raises(InputError, match="start, checkpoints"):
        main(DivergenceConfig())
