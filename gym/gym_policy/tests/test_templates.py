"""Chat templates as real models bring them, and as none should: what a reply begins and ends with,
and the bounds that a template is kept in.
"""

import json
import time

import pytest

from gym_dialogue import InputError, Message, Reply
from gym_policy import Renderer, load_renderer, load_tokenizer, template
from gym_policy.testing import TEMPLATE, tiny_llama, tiny_tokenizer

HARMONY = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m['content'] + '<|close|>' }}"
    "{% else %}{{ '<|start|>' + m['role'] + '<|message|>' + m['content'] + '<|close|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
NEWLINE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '\\n<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
THINKING = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% if m['role'] == 'assistant' and "
    "loop.last %}{{ '<think></think>' }}{% endif %}{{ m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% if enable_thinking is defined and not "
    "enable_thinking %}{{ '<think></think>' }}{% endif %}{% endif %}"
)
SAID = [
    Message("user", "Make 24."),
    Message("assistant", "1+2"),
    Message("user", "Wrong."),
    Message("assistant", "8*3"),
]


def tokenizer_with(chat_template, *specials):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(specials)})
    tokenizer.chat_template = chat_template
    return tokenizer


def harmony():
    return tokenizer_with(HARMONY, "<|start|>", "<|channel|>", "<|message|>", "<|close|>")


@pytest.mark.parametrize(
    "tokenizer",
    [harmony(), tokenizer_with(LLAMA2), tokenizer_with(NEWLINE)],
    ids=["harmony", "spaces", "newline"],
)
def test_templates_with_headers_and_spaces_around_replies_are_served(tokenizer):
    """What is rendered is what the template writes, and a reply ends once."""
    renderer = Renderer(tokenizer)
    rendered = renderer.render(SAID)
    plain = [{"role": m.role, "content": m.text} for m in SAID]
    whole = tokenizer.apply_chat_template(plain, tokenize=False)
    assert tokenizer.decode(rendered.token_ids) == whole
    pairs = list(zip(rendered.token_ids, rendered.turn, strict=True))
    for number, text in enumerate(("1+2", "8*3")):
        reply = [token for token, turn in pairs if turn == number]
        assert reply[-1] == renderer.end_of_turn_id
        assert renderer.reply_text(reply).strip() == text
    # Sampled, and ended by the model: the context is the same tokens.
    first = tuple(token for token, turn in pairs if turn == 0)
    sampled = Message("assistant", "1+2", reply=Reply("1+2", first))
    again = renderer.render([SAID[0], sampled, *SAID[2:]])
    assert again.token_ids == rendered.token_ids


def test_a_header_before_the_reply_is_in_the_prompt():
    """With channels, the model's first part was taken for the whole reply."""
    tokenizer = harmony()
    for shown in (SAID[:1], SAID[:3]):
        prompt = tokenizer.decode(Renderer(tokenizer).render(shown).token_ids)
        assert prompt.endswith("<|start|>assistant<|channel|>final<|message|>")


def test_an_end_that_is_no_special_token_is_refused_after_spaces_too():
    with pytest.raises(InputError, match=r"does not end a reply with a special token .*' END"):
        Renderer(tokenizer_with(NEWLINE.replace("\\n<|end|>", " END")))


def _saved(directory, tokenizer, **generation):
    model = tiny_llama(tokenizer)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / "generation_config.json").write_text(json.dumps(generation))
    return str(directory)


@pytest.mark.parametrize("is_list", [False, True])
def test_end_tokens_come_from_the_generation_config_too(is_list, tmp_path):
    tokenizer = tokenizer_with(TEMPLATE, "<|return|>")
    end, other = tokenizer.convert_tokens_to_ids(["<|end|>", "<|return|>"])
    ordinary = tokenizer.convert_tokens_to_ids("2")  # a default of another vocabulary
    path = _saved(tmp_path, tokenizer, eos_token_id=[other, ordinary] if is_list else other)
    renderer = load_renderer(path)
    assert renderer.stop_ids == tuple(sorted((end, other)))
    assert renderer.reply_text([*tokenizer("12")["input_ids"], other]) == "12"


@pytest.mark.parametrize("text", ["{", "[1]", '{"eos_token_id": "a"}', '{"eos_token_id": [[1]]}'])
def test_a_generation_config_that_is_none_is_one_line(text, tmp_path):
    path = _saved(tmp_path, tiny_tokenizer())
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(InputError, match=r"generation_config\.json of .*"):
        load_renderer(path)


def test_arguments_for_the_template_switch_thinking_off(tmp_path):
    """The thought is then written by the template; without them it is the model's to write."""
    path = _saved(tmp_path, tokenizer_with(THINKING))

    def prompt(kwargs):
        renderer = load_renderer(path, kwargs)
        return renderer.tokenizer.decode(renderer.render(SAID[:1]).token_ids)

    assert prompt(None).endswith("<|assistant|>")
    assert prompt({"enable_thinking": True}).endswith("<|assistant|>")
    assert prompt({"enable_thinking": False}).endswith("<|assistant|><think></think>")
    with pytest.raises(InputError, match=r"chat_template_kwargs\.tokenize"):
        load_renderer(path, {"tokenize": True})


@pytest.mark.parametrize("begins", [True, False])
def test_without_a_template_prompts_begin_as_the_tokenizer_begins_texts(begins, tmp_path):
    """A base model has met no text without its <s>."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.chat_template = None
    if begins:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
        )
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    ids = Renderer(loaded).render(SAID).token_ids
    assert ids.count(loaded.bos_token_id) == int(begins)
    assert (ids[0] == loaded.bos_token_id) is begins


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
GROWING = (
    "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}"
    "{% endfor %}"
)
HUGE = "{% set x = 'a' * 10000000000000 %}{{ x }}"
LONG = "{{ 'a' * 30000000 }}"
DEEP = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}"
POWER = "{{ 10 ** (10 ** 9) }}"


@pytest.mark.parametrize(
    ("start", "word"),
    [
        (ENDLESS, "has not ended after 1 seconds"),
        (POWER, "has not ended after 1 seconds|memory"),
        (GROWING, "MB of memory"),
        (HUGE, "MB of memory"),
        (LONG, "writes 30,000"),
        (DEEP, "recursion"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[9]['content'] + 1 }}", "does not take messages"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
    ids=["endless", "power", "growing", "huge", "long", "deep", "zero", "index", "unsafe"],
)
def test_a_template_is_kept_within_bounds(start, word, monkeypatch):
    """Of time, memory and length. On a busy machine memory may take over a second to fill."""
    if "seconds" in word:
        monkeypatch.setattr(template, "_SECONDS", 1.0)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = start + TEMPLATE
    began = time.thread_time()
    with pytest.raises(InputError, match=word) as caught:
        Renderer(tokenizer)
    assert "\n" not in str(caught.value)
    assert time.thread_time() - began < 10


def test_a_template_that_turns_bad_later_is_kept_within_bounds_too(monkeypatch):
    monkeypatch.setattr(template, "_SECONDS", 0.5)
    tokenizer = tiny_tokenizer()
    condition = "{% if 'Make' in messages[0]['content'] %}" + ENDLESS + "{% endif %}"
    tokenizer.chat_template = condition + TEMPLATE
    renderer = Renderer(tokenizer)
    with pytest.raises(InputError, match="has not ended"):
        renderer.render(SAID[:1])
