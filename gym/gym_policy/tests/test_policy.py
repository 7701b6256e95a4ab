"""Rendering and sampling with real tokenizers and a real tiny Llama."""

import gymnasium
import numpy as np
import pytest
import torch

import gym_cards
from gym_command.run_dir import saved_checkpoints
from gym_dialogue import Dialogue, InputError, Message, Reply, Task, rollout
from gym_policy import ModelPolicy, Renderer, load_model, load_tokenizer
from gym_policy.logprobs import draw_tokens, score_tokens
from gym_policy.testing import tiny_llama, tiny_tokenizer

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{% endif %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n'"
    " }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIALS = {
    LLAMA3: ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    CHATML: ["<|im_start|>", "<|im_end|>"],
}


def _tokenizer(template):
    tokenizer = tiny_tokenizer()
    if template is None:
        return tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIALS[template]})
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.chat_template = template
    return tokenizer


MESSAGES = [
    Message("user", "Make 24."),
    Message("assistant", "1+2"),
    Message("user", "Wrong."),
    Message("assistant", "8*3"),
]


@pytest.mark.parametrize("template", [None, LLAMA3, CHATML])
def test_a_rendered_dialogue_is_what_the_template_writes(template):
    tokenizer = _tokenizer(template)
    rendered = Renderer(tokenizer).render(MESSAGES)
    plain = [{"role": m.role, "content": m.text} for m in MESSAGES]
    whole = tokenizer.apply_chat_template(plain, tokenize=False)
    written = tokenizer.decode(rendered.token_ids)
    assert whole.startswith(written)
    assert whole[len(written) :].strip() == ""
    pairs = list(zip(rendered.token_ids, rendered.turn, strict=True))
    spoken = [tokenizer.decode([t for t, n in pairs if n == k]) for k in range(2)]
    assert [text.split("<|")[0] for text in spoken] == ["1+2", "8*3"]
    for k, end in enumerate(rendered.prompt_ends):
        assert rendered.turn[end] == -1
        assert rendered.turn[end + 1] == k


@pytest.mark.parametrize("template", [None, LLAMA3, CHATML])
def test_sampled_ids_are_never_tokenised_again(template):
    renderer = Renderer(_tokenizer(template))
    # "1", "0" as two tokens, which the tokenizer itself would write as one or others.
    ids = tuple(renderer.tokenizer.convert_tokens_to_ids(["1", "0"]))
    for tail in ((renderer.end_of_turn_id,), ()):
        reply = Reply("10", ids + tail)
        messages = [MESSAGES[0], Message("assistant", "10", reply=reply), MESSAGES[2]]
        rendered = renderer.render(messages)
        shown = [t for t, n in zip(rendered.token_ids, rendered.turn, strict=True) if n == 0]
        assert tuple(shown) == ids + tail
        # After the prompt, the reply (whether its end was sampled or it was cut), the feedback.
        assert rendered.token_ids.count(renderer.end_of_turn_id) == 3


def test_a_template_without_an_end_of_turn_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"
    with pytest.raises(InputError, match="special token"):
        Renderer(tokenizer)


def _policy(**kwargs):
    tokenizer = tiny_tokenizer()
    return ModelPolicy(tiny_llama(tokenizer), Renderer(tokenizer), max_new_tokens=12, **kwargs)


def _dialogues(count):
    env = gymnasium.make(gym_cards.ENV_ID)
    texts = [env.reset(seed=seed)[0]["text"] for seed in range(count)]
    return [Dialogue([Message("user", t)], key=(seed,)) for seed, t in enumerate(texts)]


@pytest.mark.parametrize("greedy", [False, True])
def test_a_reply_does_not_depend_on_its_batch(greedy):
    dialogues = _dialogues(9)
    together = _policy(greedy=greedy).act(dialogues)
    apart = _policy(greedy=greedy, batch_size=2).act(dialogues[::-1])[::-1]
    assert [r.token_ids for r in together] == [r.token_ids for r in apart]
    assert len({r.token_ids for r in together}) > (0 if greedy else 5)


def test_a_reply_says_whether_it_was_cut():
    policy = _policy()
    replies = policy.act(_dialogues(40))
    ended = [reply.token_ids[-1] in policy.renderer.stop_ids for reply in replies]
    assert [reply.finish for reply in replies] == ["stop" if e else "length" for e in ended]
    assert 0 < sum(ended) < 40
    assert all(e or len(r.token_ids) == 12 for e, r in zip(ended, replies, strict=True))


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_sampled_and_recomputed_logprobs_agree_over_three_turns(temperature):
    policy = _policy(temperature=temperature)
    envs = [gymnasium.make(gym_cards.ENV_ID, verify_iter=3) for _ in range(6)]
    episodes = rollout(envs, policy, [Task(i, (i,)) for i in range(6)])
    lengths = set()
    for episode in episodes:
        rendered = policy.renderer.render(episode.dialogues[0])
        ids = torch.tensor([rendered.token_ids])
        at = torch.tensor([t for t, n in enumerate(rendered.turn) if n >= 0])
        with torch.no_grad():
            logits = policy.model(ids).logits[0, at - 1]
        actual, _ = score_tokens(logits, ids[0, at], temperature)
        recorded = np.concatenate([turn.reply.logprobs for turn in episode.turns])
        np.testing.assert_allclose(actual.numpy(), recorded, atol=1e-4)
        assert len(episode.turns) == 3
        lengths.add(len(rendered.token_ids))
    assert len(lengths) > 1


def test_draws_follow_the_distribution():
    logprobs = torch.log_softmax(torch.tensor([1.0, 0.0, -1.0, -30.0]), -1)
    uniforms = torch.rand(40000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = draw_tokens(logprobs.expand(40000, 4), uniforms)
    shares = torch.bincount(drawn, minlength=4) / 40000
    torch.testing.assert_close(shares, logprobs.exp(), atol=0.01, rtol=0)
    edges = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert draw_tokens(logprobs.expand(2, 4), edges).max() <= 3


def test_temperature_must_be_positive():
    with pytest.raises(InputError, match="temperature"):
        _policy(temperature=0)


def test_save_and_load(tmp_path):
    tokenizer = tiny_tokenizer()
    model = tiny_llama(tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    text = "Make 24. [1, 2]"
    assert load_tokenizer(str(tmp_path))(text)["input_ids"] == tokenizer(text)["input_ids"]
    loaded = load_model(str(tmp_path))
    for (name, a), (_, b) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_bad_checkpoints_are_one_clear_line(tmp_path):
    tokenizer = tiny_tokenizer()
    model = tiny_llama(tokenizer)
    good, foreign, cut, wide = (tmp_path / name for name in ("good", "foreign", "cut", "wide"))
    model.save_pretrained(good)
    foreign.mkdir()
    (foreign / "config.json").write_text('{"a": 1}')
    model.save_pretrained(cut)
    (cut / "model.safetensors").write_bytes(b"12345678")
    model.save_pretrained(wide)
    config = (wide / "config.json").read_text()
    (wide / "config.json").write_text(
        config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    )
    for path in (foreign, cut, wide):
        with pytest.raises(InputError, match=path.name) as error:
            load_model(str(path))
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="no such directory"):
        saved_checkpoints(str(tmp_path / "missing"))
    with pytest.raises(InputError, match=r"neither config\.json"):
        saved_checkpoints(str(tmp_path))
    with pytest.raises(InputError, match="tokenizer"):
        load_tokenizer(str(good))


def test_a_run_stands_for_its_first_and_last_checkpoint(tmp_path):
    for update in (0, 5, 10):
        directory = tmp_path / "checkpoints" / f"update-{update:06d}"
        directory.mkdir(parents=True)
        (directory / "config.json").write_text("{}")
    (tmp_path / "checkpoints" / "update-000015.partial").mkdir()
    actual = saved_checkpoints(str(tmp_path))
    assert [path[-6:] for path in actual] == ["000000", "000010"]
