"""The learner: it learns, its losses are the equations', and its bookkeeping is right."""

import copy
import json
import math
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from urllib.request import Request, urlopen

import gymnasium
import numpy as np
import pytest
import torch

import gym_cards
from gym_dialogue import InputError, Reply
from gym_policy import Renderer, logprobs
from gym_policy.completion import Completion
from gym_policy.models.adapter import add_adapter
from gym_policy.training.freezing import check_linear_head, freeze_unreached
from gym_policy.vision import checkpoint_activations
from rl.actor_critic import ActorCritic, Scores
from rl.config import GRPOConfig, LoraSettings, PPOConfig, check_config
from rl.experience import Batch, collate, token_weights
from rl.learner import TOLERATED_GAP, scheduled
from rl.ppo import PPO, clipped_policy_sums, ref_kl_sum, value_loss_sum
from rl.testing import (
    Bandit,
    collect,
    make_learner,
    small_config,
    tiny_llama,
    tiny_mllama,
    tiny_tokenizer,
)


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
@pytest.mark.parametrize("ratio", ["turn", "token"])
def test_a_one_turn_bandit_is_learnt(algorithm, ratio):
    config = small_config(
        algorithm,
        ppo=PPOConfig(clip=0.2, value_hidden=[16], ratio=ratio),
        grpo=GRPOConfig(ratio=ratio),
    )
    policy, learner = make_learner(config)
    envs = [Bandit(1) for _ in range(64)]
    success = []
    for update in range(1, 25):
        episodes, experiences = collect(envs, policy, learner, update, 64)
        success.append(np.mean([e.is_success for e in episodes]))
        learner.learn(update, episodes, experiences)
    assert success[0] < 0.3
    assert success[-1] > 0.9


def _card_episodes(config, count=16, verify_iter=3):
    policy, learner = make_learner(config)
    envs = [gymnasium.make(gym_cards.ENV_ID, verify_iter=verify_iter) for _ in range(count)]
    return policy, learner, *collect(envs, policy, learner, 1, count)


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (
            "ppo",
            {
                "policy_loss": -0.038985,
                "value_loss": 0.481886,
                "entropy": 5.552632,
                "approx_kl": 0.010645,
                "clip_fraction": 0.148438,
                "grad_norm": 1.607576,
            },
        ),
        (
            "grpo",
            {
                "policy_loss": -0.03037,
                "entropy": 5.55295,
                "approx_kl": 0.008625,
                "clip_fraction": 0.132812,
                "grad_norm": 1.017496,
            },
        ),
    ],
)
def test_the_first_losses_of_a_tiny_random_model_are_pinned(algorithm, expected):
    config = small_config(algorithm)
    policy, learner = make_learner(config)
    envs = [Bandit(1) for _ in range(64)]
    stats = learner.learn(1, *collect(envs, policy, learner, 1, 64))
    for name, value in expected.items():
        assert stats[name] == pytest.approx(value, rel=2e-3), name
    assert stats["logprob_gap"] < 1e-5


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_microbatches_accumulate_to_the_same_step(algorithm):
    after = []
    for micro in (16, 4, 1):
        config = small_config(
            algorithm, max_new_tokens=6, lr=1e-2, epochs=1, minibatch_size=16, microbatch_size=micro
        )
        policy, learner, episodes, experiences = _card_episodes(config)
        learner.learn(1, episodes, experiences)
        after.append(torch.cat([p.detach().flatten() for p in policy.model.parameters()]))
    torch.testing.assert_close(after[1], after[0], atol=2e-5, rtol=0)
    torch.testing.assert_close(after[2], after[0], atol=2e-5, rtol=0)


def _batch(advantages, old_logprobs, token_turn, old_values=0.0, returns=0.0, token_weight=None):
    n, m = len(old_logprobs), len(advantages)
    index = torch.zeros(n, dtype=torch.long)
    return Batch(
        input_ids=index,
        predict_at=index,
        targets=index,
        value_at=torch.zeros(m, dtype=torch.long),
        token_turn=torch.tensor(token_turn),
        token_weight=torch.tensor(token_weight or [1.0] * n),
        sampled_logprobs=torch.tensor(old_logprobs),
        old_logprobs=torch.tensor(old_logprobs),
        ref_logprobs=torch.zeros(n),
        old_values=torch.full((m,), old_values),
        advantages=torch.tensor(advantages),
        returns=torch.full((m,), returns),
    )


def _scores(logprobs, values):
    return Scores(torch.tensor(logprobs), torch.zeros(len(logprobs)), torch.tensor(values))


def test_the_clipped_surrogate_by_hand():
    batch = _batch([1.0, -2.0], [-1.0, -1.0, -1.0], [0, 0, 1])
    scores = _scores([-0.9, -0.9, -1.5], [0.0, 0.0])
    turn = clipped_policy_sums(scores, batch, "turn", 0.1, 0.1)
    # Turn 0: ratio exp(0.2), clipped to 1.1. Turn 1: ratio exp(-0.5), clipped to 0.9.
    assert turn["policy"].item() == pytest.approx(-(1.1 - 2 * 0.9), abs=1e-5)
    assert turn["clipped"].item() == 2
    token = clipped_policy_sums(scores, batch, "token", 0.2, 0.2)
    expected = 2 * math.exp(0.1) - 2 * 0.8
    assert token["policy"].item() == pytest.approx(-expected, abs=1e-5)
    assert token["gap"].item() == pytest.approx(0.7, abs=1e-5)
    kl = 2 * (math.exp(0.1) - 1 - 0.1) + (math.exp(-0.5) - 1 + 0.5)
    assert token["approx_kl"].item() == pytest.approx(kl, abs=1e-5)


def test_the_importance_of_what_another_sampled_by_hand():
    batch = _batch([1.0, -2.0], [-1.0, -1.0, -1.0], [0, 0, 1])
    batch.sampled_logprobs = torch.tensor([-1.2, -0.9, -3.0])
    scores = _scores([-1.0, -1.0, -1.0], [0.0, 0.0])  # the learner's own: every ratio is 1
    token = clipped_policy_sums(scores, batch, "token", 0.2, 0.2, importance_cap=2.0)
    expected = math.exp(0.2) + math.exp(-0.1) - 2 * 2.0  # exp(2) is cut to 2
    assert token["policy"].item() == pytest.approx(-expected, abs=1e-5)
    assert token["gap"].item() == pytest.approx(0.2 + 0.1 + 2.0, abs=1e-5)
    turn = clipped_policy_sums(scores, batch, "turn", 0.2, 0.2, importance_cap=2.0)
    assert turn["policy"].item() == pytest.approx(-(math.exp(0.1) - 2 * 2.0), abs=1e-5)
    # What a token counts for in the ratio does not change how likely it was to be sampled.
    batch.token_weight = torch.tensor([0.5, 1.0, 0.5])
    turn = clipped_policy_sums(scores, batch, "turn", 0.2, 0.2, importance_cap=2.0)
    assert turn["policy"].item() == pytest.approx(-(math.exp(0.1) - 2 * 2.0), abs=1e-5)


@pytest.mark.parametrize("level", ["turn", "token"])
def test_importance_gives_the_gradient_of_what_is_learned(level):
    """Replies of one token, each counted as often as the sampler says it: the policy gradient is
    that of the learner's distribution, which without importance it is not.
    """
    torch.manual_seed(0)
    logits = torch.randn(5, requires_grad=True)
    sampler = (torch.randn(5) * 0.3 + logits.detach()).log_softmax(-1)
    advantage = torch.randn(5)
    batch = _batch((sampler.exp() * advantage).tolist(), [0.0] * 5, list(range(5)))
    batch.sampled_logprobs, batch.old_logprobs = sampler, logits.detach().log_softmax(-1)
    (wanted,) = torch.autograd.grad((logits.softmax(-1) * advantage).sum(), logits)

    def result(cap):
        scores = Scores(logits.log_softmax(-1), torch.zeros(5), torch.zeros(5))
        sums = clipped_policy_sums(scores, batch, level, 0.2, 0.2, cap)
        return torch.autograd.grad(-sums["policy"], logits)[0]

    torch.testing.assert_close(result(100.0), wanted)
    batch.sampled_logprobs = batch.old_logprobs
    assert not torch.allclose(result(100.0), wanted, atol=0.01)


class _Server:
    """A sampler behind a door: an HTTP server that draws from flattened logits, without a cache,
    and says how likely its tokens were there.
    """

    def __init__(self, model, flatten):
        @torch.no_grad()
        def complete(prompts, uniforms):  # all of one length
            logits = model(torch.tensor(prompts)).logits[:, -1] * flatten
            return [
                x.tolist()
                for x in logprobs.choose_tokens(logits, 1.0, None, torch.tensor(uniforms))
            ]

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                result = complete(*asked)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(result).encode())

            def log_message(self, *args):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()

    def sample(self, requests, decoding):
        prompts = [list(r.token_ids) for r in requests]
        asked = json.dumps([prompts, [float(r.uniforms[0]) for r in requests]])
        url = f"http://127.0.0.1:{self.server.server_port}"
        with urlopen(Request(url, asked.encode())) as answer:
            tokens, scores = json.loads(answer.read())
        return [Completion([t], [s]) for t, s in zip(tokens, scores, strict=True)]


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_a_bandit_is_learnt_from_what_a_server_samples(algorithm):
    config = small_config(algorithm)
    policy, learner = make_learner(config)
    policy.sampler = _Server(policy.model, flatten=0.7)
    envs = [Bandit(1) for _ in range(64)]
    success, gaps = [], []
    for update in range(1, 25):
        episodes, experiences = collect(envs, policy, learner, update, 64)
        success.append(np.mean([e.is_success for e in episodes]))
        gaps.append(learner.learn(update, episodes, experiences)["logprob_gap"])
    policy.sampler.server.shutdown()
    policy.sampler.server.server_close()
    assert max(gaps) > TOLERATED_GAP
    assert success[0] < 0.3
    assert success[-1] > 0.9


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
@pytest.mark.parametrize("off", [0.0, 0.1])
def test_old_logprobs_are_the_samplers_unless_they_are_off(algorithm, off, monkeypatch):
    monkeypatch.setattr("rl.learner.LOOKED_AT", 3)
    config = small_config(algorithm, max_new_tokens=6)
    _, learner, episodes, experiences = _card_episodes(config)
    right = [e.sampled_logprobs for e in experiences]
    for experience in experiences:
        experience.sampled_logprobs = experience.old_logprobs = experience.sampled_logprobs - off
    given = [e.sampled_logprobs for e in experiences]
    stats = learner.learn(1, episodes, experiences)
    assert stats["logprob_gap"] == pytest.approx(off, abs=1e-4)
    for experience, wanted in zip(experiences, right if off else given, strict=True):
        np.testing.assert_allclose(experience.old_logprobs, wanted, atol=1e-4)


@pytest.mark.parametrize("entropy_learns", [False, True])
def test_scoring_in_parts_is_scoring_at_once(entropy_learns, monkeypatch):
    head = torch.nn.Linear(8, 50, bias=False)
    torch.manual_seed(0)
    states = torch.randn(200, 8, requires_grad=True)
    targets = torch.randint(0, 50, (200,))
    weights = torch.randn(2, 200)

    def score():
        result = logprobs.score_states(head, states, targets, 0.7, 3, entropy_learns)
        sum((w * f).sum() for w, f in zip(weights, result, strict=True)).backward()
        gradients = [head.weight.grad.clone(), states.grad.clone()]
        head.weight.grad = states.grad = None
        return [*result, *gradients]

    at_once = score()
    monkeypatch.setitem(logprobs.LOGITS_AT_ONCE, "cpu", 50 * 70)
    for part, whole in zip(score(), at_once, strict=True):
        torch.testing.assert_close(part, whole)
    simple = logprobs.score_tokens(head(states), targets, 0.7, 3)
    torch.testing.assert_close(at_once[0], simple[0])
    torch.testing.assert_close(at_once[1], simple[1])


def _limit_memory(learner, limit, learning):
    """Passes over more than `limit` dialogues fail, of those with gradients or of those without."""
    forward = learner.inner.forward

    def little_memory(input_ids, *args, **kwargs):
        if torch.is_grad_enabled() == learning and len(input_ids) > limit:
            raise torch.OutOfMemoryError("too much")
        return forward(input_ids, *args, **kwargs)

    learner.actor_critic.forward = little_memory


def test_learning_goes_on_in_smaller_microbatches():
    after = []
    for limit in (100, 3):
        config = small_config("ppo", max_new_tokens=6, microbatch_size=8)
        policy, learner, episodes, experiences = _card_episodes(config)
        _limit_memory(learner, limit, learning=True)
        if limit == 3:
            with pytest.warns(UserWarning, match="going on with 2; lower microbatch_size"):
                learner.learn(1, episodes, experiences)
        else:
            learner.learn(1, episodes, experiences)
        after.append(torch.cat([p.detach().flatten() for p in policy.model.parameters()]))
    torch.testing.assert_close(after[1], after[0], atol=2e-5, rtol=0)
    _limit_memory(learner, 0, learning=True)
    with (
        pytest.warns(UserWarning, match="going on with 1"),
        pytest.raises(InputError, match="lower max_new_tokens"),
    ):
        learner._step_in_memory(experiences[:2], False)


def test_scoring_goes_on_with_fewer_together():
    result = []
    for limit in (100, 5):
        config = small_config("ppo", max_new_tokens=6, microbatch_size=8)
        _, learner, episodes, experiences = _card_episodes(config)
        learner.inner.value_head[-1].weight.data.fill_(0.1)
        _limit_memory(learner, limit, learning=False)
        if limit == 5:
            with pytest.warns(UserWarning, match="going on with 4; lower microbatch_size"):
                learner.learn(1, episodes, experiences)
            assert learner.microbatch_size == 8  # of learning, which had enough
        else:
            learner.learn(1, episodes, experiences)
        result.append(np.concatenate([e.old_values for e in experiences]))
    assert result[0].std() > 0
    np.testing.assert_allclose(result[1], result[0], atol=1e-5)


def test_an_optimizer_that_does_not_fit_is_not_tried_again():
    _, learner, episodes, experiences = _card_episodes(small_config("grpo", max_new_tokens=3))
    tried = []

    def step(*args, **kwargs):
        tried.append(1)
        raise torch.OutOfMemoryError("too much")

    learner.optimizer.step = step
    with pytest.raises(InputError, match=r"set lora\.rank, or spread"):
        learner.learn(1, episodes, experiences)
    assert len(tried) == 1


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_what_is_computed_again_changes_nothing(algorithm):
    """Gradient checkpointing, and values without logits, against the plain way."""
    after = []
    for checkpointing in (False, True):
        config = small_config(algorithm, max_new_tokens=6, lr=1e-2, epochs=1)
        policy, learner, episodes, experiences = _card_episodes(config)
        if checkpointing:
            checkpoint_activations(policy.model)
        batch = collate(experiences, 0, "cpu")
        with torch.no_grad():
            whole, values = (learner.inner(**i) for i in (batch.model_inputs, batch.value_inputs))
        torch.testing.assert_close(values.values, whole.values)
        assert values.logprobs.numel() == 0
        learner.learn(1, episodes, experiences)
        after.append(torch.cat([p.detach().flatten() for p in policy.model.parameters()]))
    torch.testing.assert_close(after[1], after[0], atol=1e-6, rtol=0)


def test_tokens_before_the_answer_count_for_less_by_hand():
    batch = _batch([1.0, -2.0], [-1.0, -1.0, -1.0], [0, 0, 1], token_weight=[0.5, 1.0, 0.5])
    scores = _scores([-0.9, -1.02, -0.9], [0.0, 0.0])
    # Turn 0: 0.5 * 0.1 - 0.02 = 0.03. Turn 1: 0.5 * 0.1 = 0.05.
    turn = clipped_policy_sums(scores, batch, "turn", 0.1, 0.1)
    assert turn["policy"].item() == pytest.approx(2 * math.exp(0.05) - math.exp(0.03), abs=1e-5)
    assert turn["gap"].item() == pytest.approx(0.22, abs=1e-5)
    token = clipped_policy_sums(scores, batch, "token", 0.2, 0.2)
    expected = 2 * 0.5 * math.exp(0.1) - 0.5 * math.exp(0.1) - math.exp(-0.02)
    assert token["policy"].item() == pytest.approx(expected, abs=1e-5)


def test_the_kl_to_the_start_by_hand():
    batch = _batch([0.0], [0.0, 0.0], [0, 0])
    batch.ref_logprobs = torch.tensor([-1.0, -2.0])
    result = ref_kl_sum(_scores([-1.5, -2.0], [0.0]), batch).item()
    assert result == pytest.approx(math.exp(0.5) - 0.5 - 1, abs=1e-6)


def test_the_kl_term_holds_the_policy_near_its_start():
    def distance(coefficient):
        config = small_config("ppo", max_new_tokens=3, lr=5e-3, epochs=4, kl_coef=coefficient)
        policy, learner, episodes, experiences = _card_episodes(config, count=4)
        if coefficient:
            learner.reference = copy.deepcopy(learner.inner).requires_grad_(False)
        before = copy.deepcopy(policy.model)
        for update in range(1, 4):
            stats = learner.learn(update, episodes, experiences)
        assert (stats.get("ref_kl", 0) > 0) == (coefficient > 0)
        batch = collate(experiences, 0, "cpu")
        with torch.no_grad():
            start = ActorCritic(before, 1.0, (16,))(**batch.model_inputs)
            now = learner.inner(**batch.model_inputs)
        return float((now.logprobs - start.logprobs).abs().mean())

    assert distance(5.0) < 0.5 * distance(0.0)


@pytest.mark.parametrize("ending", ["", "}"])
def test_the_answer_field_is_found_in_any_tokens(ending):
    renderer = Renderer(tiny_tokenizer())
    draft = '{"formula": "1+1"} No: '  # the last field of that name counts, as in reading
    text = draft + '{"cards": ["é", "漢"], "formula": "8*3"' + ending
    ids = tuple(renderer.tokenizer(text, add_special_tokens=False)["input_ids"])
    reply = Reply(text, ids, (0.0,) * len(ids))
    weights = token_weights(reply, "formula", renderer, 0.5)
    counted = renderer.tokenizer.decode([t for t, w in zip(ids, weights, strict=True) if w == 1])
    assert counted == '"formula": "8*3"' + ending
    assert set(weights) == {0.5, 1.0}
    assert (token_weights(reply, "action", renderer, 0.5) == 0.5).all()
    assert (token_weights(reply, None, renderer, 0.5) == 1).all()


def test_the_value_loss_by_hand():
    batch = _batch([0.0], [0.0], [0], old_values=1.0, returns=3.0)
    scores = _scores([0.0], [2.0])
    assert value_loss_sum(scores, batch, 0.0).item() == 0.5
    assert value_loss_sum(scores, batch, 0.5).item() == 0.5 * 1.5**2


def test_the_entropy_bonus_is_applied():
    def entropy_after(coefficient):
        ppo = PPOConfig(value_hidden=[16], entropy_coef=coefficient)
        config = small_config(
            "ppo", ppo=ppo, max_new_tokens=6, lr=5e-3, epochs=4, old_logprobs="sampled"
        )
        _, learner, episodes, experiences = _card_episodes(config)
        learner.learn(1, episodes, experiences)
        return learner.learn(2, episodes, experiences)["entropy"]

    assert entropy_after(5.0) > entropy_after(0.0) + 0.005
    assert entropy_after(-5.0) < entropy_after(0.0) - 0.005


def test_the_warm_up_moves_the_value_head_only_where_detached():
    ppo = PPOConfig(value_hidden=[16], value_warmup=1)
    config = small_config("ppo", ppo=ppo, max_new_tokens=6, turns_per_update=16)
    policy, learner, episodes, experiences = _card_episodes(config)
    learner.actor_critic.detach_value = True
    body = copy.deepcopy(policy.model.state_dict())
    head = copy.deepcopy(learner.actor_critic.value_head.state_dict())
    learner.learn(1, episodes, experiences)
    assert all(torch.equal(body[k], v) for k, v in policy.model.state_dict().items())
    moved = learner.actor_critic.value_head.state_dict()
    assert not all(torch.equal(head[k], v) for k, v in moved.items())
    learner.learn(2, episodes, experiences)
    assert not all(torch.equal(body[k], v) for k, v in policy.model.state_dict().items())


def test_scores_match_the_whole_model_on_padded_sequences():
    config = small_config("ppo", max_new_tokens=6)
    _, learner, _, experiences = _card_episodes(config)
    batch = collate(experiences, 0, "cpu")
    with torch.no_grad():
        scores = learner.actor_critic(**batch.model_inputs)
    np.testing.assert_allclose(scores.logprobs, batch.old_logprobs, atol=1e-4)
    assert len(scores.values) == sum(len(e.turns) for e in experiences)


def test_gae_runs_over_the_turns_of_an_episode_and_no_further():
    config = small_config("ppo", max_new_tokens=3)
    _, _, episodes, experiences = _card_episodes(config)
    PPO(PPOConfig(gamma=1.0, lam=1.0)).set_advantages(episodes, experiences)
    for experience in experiences:
        rewards = [turn.reward for turn in episodes[experience.episode].turns]
        np.testing.assert_allclose(experience.returns, np.cumsum(rewards[::-1])[::-1])


def test_divergence_is_said_in_one_line():
    config = small_config("grpo", max_new_tokens=3)
    policy, learner, episodes, experiences = _card_episodes(config)
    policy.model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match="diverged"):
        learner.learn(1, episodes, experiences)


def test_schedules():
    assert scheduled(1.0, 0.2, "constant", 0.7) == 1.0
    assert scheduled(1.0, 0.2, "linear", 0.5) == pytest.approx(0.6)
    assert scheduled(1.0, 0.2, "cosine", 0.0) == 1.0
    assert scheduled(1.0, 0.2, "cosine", 1.0) == pytest.approx(0.2)
    assert scheduled(1.0, 0.2, "linear", 1.5) == pytest.approx(0.2)


def test_the_learning_rate_follows_its_horizon():
    config = small_config(
        "grpo", lr=1e-3, lr_end=1e-9, lr_schedule="cosine", lr_horizon=100, num_updates=20
    )
    _, learner, episodes, experiences = _card_episodes(config, count=2, verify_iter=1)
    stats = learner.learn(11, episodes, experiences)  # 10 of 100 updates are done
    assert stats["lr"] == pytest.approx(1e-9 + (1e-3 - 1e-9) * (1 + math.cos(math.pi / 10)) / 2)


def test_the_value_head_is_saved_and_read(tmp_path):
    model = tiny_llama(tiny_tokenizer())
    first, second = ActorCritic(model, 1.0, (8,)), ActorCritic(model, 1.0, (8,))
    first.value_head[-1].weight.data.fill_(0.5)
    first.save_value_head(tmp_path)
    assert second.load_value_head(tmp_path)
    assert torch.equal(first.value_head[-1].weight, second.value_head[-1].weight)
    assert not second.load_value_head(tmp_path / "none")
    with pytest.raises(InputError, match="does not fit"):
        ActorCritic(model, 1.0, (9,)).load_value_head(tmp_path)


def test_models_whose_logits_are_not_a_linear_head_are_refused():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    check_linear_head(tiny_llama(tiny_tokenizer()))
    config = Gemma2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        final_logit_softcapping=0.05,
    )
    with pytest.raises(InputError, match="gemma2"):
        check_linear_head(Gemma2ForCausalLM(config))


def test_what_text_does_not_reach_is_frozen():
    model = tiny_mllama(tiny_tokenizer())
    frozen = freeze_unreached(model)
    for name, parameter in model.named_parameters():
        is_text = ".layers.1." not in name and ".layers.3." not in name  # those look at images
        reached = name.startswith("lm_head") or ("language_model" in name and is_text)
        assert parameter.requires_grad == reached, name
    assert frozen == sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert freeze_unreached(tiny_llama(tiny_tokenizer())) == 0
    adapted = add_adapter(tiny_mllama(tiny_tokenizer()), "x/y", 4, 8.0, 0.0, ["all-linear"])
    freeze_unreached(adapted.get_base_model())
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 7 * 2  # of the two layers that see text alone
    assert all("lora_" in name and "language_model" in name for name in trained)


def test_llama_vision_learns_from_text():
    config = small_config("ppo", max_new_tokens=1, num_updates=2)

    def text_only(tokenizer):
        model = tiny_mllama(tokenizer)
        check_linear_head(model)
        freeze_unreached(model)
        return model

    policy, learner = make_learner(config, text_only)
    model = policy.model
    before = copy.deepcopy(model.state_dict())
    stats = learner.learn(1, *collect([Bandit(1) for _ in range(64)], policy, learner, 1, 64))
    assert stats["logprob_gap"] < 1e-5
    moved = {name for name, value in model.state_dict().items() if (value != before[name]).any()}
    assert moved == {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("kwargs", "word"),
    [
        ({}, "model"),
        ({"model": "x", "num_updates": 0}, "num_updates"),
        ({"model": "x", "minibatch_size": 10, "microbatch_size": 4}, "multiple"),
        ({"model": "x", "temperature": 0.0}, "temperature"),
        ({"model": "x", "ppo": PPOConfig(gamma=1.5)}, "ppo.gamma"),
        ({"model": "x", "grpo": GRPOConfig(group_size=1)}, "group_size"),
        ({"model": "x", "seed": -1}, "seed"),
        ({"model": "x", "prefix_weight": 2.0}, "prefix_weight"),
        ({"model": "x", "lora": LoraSettings(rank=-1)}, "rank"),
        ({"model": "x", "lr_horizon": 0}, "lr_horizon"),
    ],
)
def test_values_that_describe_no_run_are_named(kwargs, word):
    from rl.config import RLConfig

    with pytest.raises(InputError, match=word):
        check_config(RLConfig(**kwargs))
