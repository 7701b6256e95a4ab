"""Every sampler against the simple one, and the seam that any other has to fit."""

from dataclasses import replace
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from transformers import GenerationConfig

import gym_cards
import gym_virl
from gym_dialogue import Dialogue, InputError, Message, Task, rollout
from gym_policy import ModelPolicy, Renderer
from gym_policy.completion import Completion, Decoding, Request
from gym_policy.logprobs import choose_tokens, keep_nucleus, score_tokens
from gym_policy.models.testing import ARCHITECTURES
from gym_policy.out_of_memory import is_out_of_memory
from gym_policy.samplers.cached import CachedSampler
from gym_policy.samplers.generate import GenerateSampler
from gym_policy.samplers.model_policy import make_sampler
from gym_policy.testing import SIDE, THAT_SEE, tiny_llama, tiny_tokenizer

# A fifth of all tokens ends a reply, so that rows end at different times.
STOPS = tuple(range(0, 256, 5))


def decoding(greedy=False, tokens=24):
    return Decoding(0.7, tokens, greedy, STOPS, pad_token_id=256)


def requests(count, seed=0, shared=None):
    """Prompts of 4 to 40 tokens; every third is the one before it again."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(1, 250, rng.integers(4, 40)).tolist() for _ in range(count)]
    for i in range(2, count, 3):
        prompts[i] = prompts[i - 1]
    shared = shared or [{} for _ in prompts]
    return [Request(p, rng.random(24), shared=s) for p, s in zip(prompts, shared, strict=True)]


def assert_same(actual, wanted):
    assert [list(c.token_ids) for c in actual] == [list(c.token_ids) for c in wanted]
    for a, b in zip(actual, wanted, strict=True):
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("name", ["cached", "cached_once", "static"])
@torch.no_grad()
def test_samplers_agree_with_the_simple_one(name, greedy):
    model = tiny_llama(tiny_tokenizer())
    prompts = requests(21)
    wanted = GenerateSampler(model).sample(prompts, decoding(greedy))
    assert len({len(c.token_ids) for c in wanted}) > 5
    assert_same(make_sampler(name, model).sample(prompts, decoding(greedy)), wanted)


def test_the_nucleus_by_hand():
    chances = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64)
    for top_p, wanted in (
        (0.39, [[0, 1, 0, 0], [0.5, 0.5, 0, 0]]),
        (0.41, [[0, 4 / 7, 0, 3 / 7], [0.5, 0.5, 0, 0]]),
        (0.8, [[0, 4 / 9, 2 / 9, 3 / 9], [0.25, 0.25, 0.25, 0.25]]),
        (0.95, [[0.1, 0.4, 0.2, 0.3], [0.25, 0.25, 0.25, 0.25]]),
    ):
        actual = keep_nucleus(chances.log(), top_p).exp()
        torch.testing.assert_close(actual, torch.tensor(wanted, dtype=torch.float64))


def test_tokens_are_drawn_from_the_nucleus_of_the_tempered_distribution():
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log().expand(4, -1) * 0.5
    uniforms = torch.tensor([0.0, 0.57, 0.58, 0.99])  # 4/7 = 0.571 is the edge
    chosen, logprobs = choose_tokens(logits, 0.5, None, uniforms, top_p=0.6)
    assert chosen.tolist() == [1, 1, 3, 3]
    wanted = torch.tensor([4 / 7, 4 / 7, 3 / 7, 3 / 7]).log()
    torch.testing.assert_close(logprobs, wanted)
    chosen, logprobs = choose_tokens(logits, 0.5, 1, uniforms, top_p=0.6)  # of 1/6, 2/6, 3/6
    assert chosen.tolist() == [2, 3, 3, 3]
    torch.testing.assert_close(logprobs.exp(), torch.tensor([0.4, 0.6, 0.6, 0.6]))
    greedy = choose_tokens(logits, 0.5, None, None, top_p=0.1)
    assert [part.tolist() for part in greedy] == [
        part.tolist() for part in choose_tokens(logits, 0.5)
    ]


@pytest.mark.parametrize("name", ["cached", "generate", "paged"])
@torch.no_grad()
def test_every_sampler_keeps_to_the_nucleus(name):
    model = tiny_llama(tiny_tokenizer())
    prompts = requests(6)
    narrow = replace(decoding(tokens=8), top_p=0.05)
    for request, completion in zip(
        prompts, make_sampler(name, model).sample(prompts, narrow), strict=True
    ):
        ids = [*request.token_ids, *completion.token_ids]
        logits = model(torch.tensor([ids])).logits[0, len(request.token_ids) - 1 : -1]
        kept = keep_nucleus(torch.log_softmax(logits / 0.7, -1), 0.05)
        words = kept.gather(-1, torch.tensor([completion.token_ids]).T)
        assert words.min() > -20
        assert (kept > -20).sum(-1).max() < 40  # of 261


@torch.no_grad()
def test_what_is_known_of_a_prompt_changes_nothing():
    """Later prompts of an episode: longer, cut off, different early, different late, the same."""
    model = tiny_llama(tiny_tokenizer())
    sampler, simple = CachedSampler(model), GenerateSampler(model)
    rng = np.random.default_rng(1)
    now = requests(20)
    for turn in range(4):
        actual = sampler.sample(now, decoding())
        assert_same(actual, simple.sample(now, decoding()))
        following = []
        for number, (request, completion) in enumerate(zip(now, actual, strict=True)):
            ids = [*request.token_ids, *completion.token_ids]
            more = rng.integers(1, 250, rng.integers(1, 9)).tolist()
            at = [len(ids), len(ids) * 2 // 3, 1, len(ids) - 1, len(ids)][number % 5]
            ids = ids[:at] + (more if number % 5 != 4 else [])
            following.append(Request(ids, rng.random(24), shared=request.shared))
        # They come in another order, and some episodes are new.
        now = following[::-1][:-2] + requests(3, seed=turn + 5)


@torch.no_grad()
def test_nothing_is_computed_twice():
    model = tiny_llama(tiny_tokenizer())
    computed = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: computed.append(kwargs["input_ids"].numel()),
        with_kwargs=True,
    )
    prompt = list(range(1, 41))
    shared = [{} for _ in range(8)]
    group = [Request(prompt, np.full(24, i / 8), shared=s) for i, s in enumerate(shared)]
    sampler = CachedSampler(model)
    actual = sampler.sample(group, decoding(tokens=4))
    assert computed[0] == 40  # of eight equal prompts one
    computed.clear()
    again = [
        Request([*prompt, *c.token_ids, 7], np.full(24, 0.5), shared=s)
        for c, s in zip(actual, shared, strict=True)
    ]
    sampler.sample(again, decoding(tokens=4))
    assert computed[0] <= 8 * 2  # the last token of a reply, and what is new


@torch.no_grad()
def test_what_has_ended_is_not_sampled_on():
    model = tiny_llama(tiny_tokenizer())
    rows = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    prompts = requests(48)[::3]  # no two are equal, so that the first pass has all of them
    actual = CachedSampler(model).sample(prompts, decoding())
    lengths = [len(c.token_ids) for c in actual]
    steps = rows[-(max(lengths) - 1) :]
    live = [sum(length > step for length in lengths) for step in range(1, max(lengths))]
    assert live[0] > live[-1]
    # At most a quarter of a batch has ended; `generate` has every row in every step.
    assert all(a <= b < a / 0.75 for a, b in zip(live, steps, strict=True))


def play(name, env_id, **kwargs):
    tokenizer = tiny_tokenizer()
    model = tiny_llama(tokenizer)
    policy = ModelPolicy(model, Renderer(tokenizer), max_new_tokens=6, sampler=name)
    envs = [gymnasium.make(env_id, **kwargs) for _ in range(3)]
    tasks = [Task(i // 2, (i,)) for i in range(4)]
    return rollout(envs, policy, tasks)


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        (gym_cards.ENV_ID, {"verify_iter": 3}),
        (gym_virl.ENV_ID, {"verify_iter": 2, "on_failure": "go_on", "max_legs": 2}),
    ],
    ids=["cards", "routes"],
)
def test_episodes_are_the_same(env_id, kwargs):
    actual = play("cached", env_id, **kwargs)
    wanted = play("generate", env_id, **kwargs)
    for a, b in zip(actual, wanted, strict=True):
        assert [t.reply.text for t in a.turns] == [t.reply.text for t in b.turns]
        for x, y in zip(a.turns, b.turns, strict=True):
            np.testing.assert_allclose(x.reply.logprobs, y.reply.logprobs, atol=1e-4)
        assert not any(dialogue.shared for dialogue in a.dialogues)  # nothing stays behind


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_dialogues_on_images_are_the_same(kind):
    model, tokenizer, processor = ARCHITECTURES[kind](0)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(3)]
    # Two show the same; one has none.
    shown = [images[0], images[0], images[1], None, images[2]]

    def words(name):
        policy = ModelPolicy(model, Renderer(tokenizer, processor), 1.0, 6, sampler=name)
        dialogues = [
            Dialogue([Message("user", "Make 24." + "?" * (i // 2), image)], key=(i,))
            for i, image in enumerate(shown)
        ]
        for _ in range(3):
            for dialogue, reply in zip(dialogues, policy.act(dialogues), strict=True):
                dialogue.messages += [
                    Message("assistant", reply.text, reply=reply),
                    Message("user", "Again."),
                ]
        return [m.reply for d in dialogues for m in d.messages if m.reply is not None]

    for a, b in zip(words("cached"), words("generate"), strict=True):
        assert a.token_ids == b.token_ids
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)


@torch.no_grad()
def test_nothing_is_taken_up_under_another_image():
    tokenizer = tiny_tokenizer(with_images=True)
    model, processor = (make(tokenizer) for make in THAT_SEE["mllama"])
    renderer = Renderer(tokenizer, processor)
    rng = np.random.default_rng(0)
    before = rng.integers(1, 250, 40).tolist()
    images = [rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(3)]
    sampler, simple, shared = CachedSampler(model), GenerateSampler(model), [{}, {}]
    computed = []
    model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: computed.append(kwargs["input_ids"].shape[1]),
        with_kwargs=True,
    )
    for shown, is_known in (((0, 1), False), ((1, 2), False), ((1, 2), True), ((None, 2), True)):
        now = []
        for image, own in zip(shown, shared, strict=True):
            image = None if image is None else images[image]
            prompt = renderer.render([Message("user", "Make 24.", image)])
            at = None if image is None else len(before) + prompt.image_at
            ids = [*before, *prompt.token_ids]
            now.append(Request(ids, rng.random(24), prompt.processed_image, at, own))
        computed.clear()
        actual = sampler.sample(now, decoding())
        assert computed[0] == (1 if is_known and None not in shown else len(now[0].token_ids))
        assert_same(actual, simple.sample(now, decoding()))


@torch.no_grad()
def test_continuous_batching_samples_the_same_distribution():
    model = tiny_llama(tiny_tokenizer())
    sampler = make_sampler("paged", model)
    prompts = requests(8)
    greedy = sampler.sample(prompts, decoding(greedy=True))
    wanted = GenerateSampler(model).sample(prompts, decoding(greedy=True))
    assert [list(c.token_ids) for c in greedy] == [list(c.token_ids) for c in wanted]
    drawn = sampler.sample(prompts, decoding())
    assert [c.token_ids for c in drawn] != [c.token_ids for c in greedy]
    for request, completion in zip(prompts, drawn, strict=True):
        ids = torch.tensor([[*request.token_ids, *completion.token_ids]])
        at = len(request.token_ids)
        actual, _ = score_tokens(model(ids).logits[0, at - 1 : -1], ids[0, at:], 0.7)
        np.testing.assert_allclose(actual, completion.logprobs, atol=1e-4)
    again = sampler.sample(prompts, decoding())
    assert [c.token_ids for c in again] == [c.token_ids for c in drawn]


_DEFAULTS = {
    "repetition_penalty": 1.5,
    "sequence_bias": [[[7], 9.0]],
    "num_beams": 4,
    "num_return_sequences": 3,
    "return_dict_in_generate": True,
    "no_repeat_ngram_size": 2,
    "min_new_tokens": 20,
    "min_length": 90,
    "suppress_tokens": list(range(0, 200, 2)),
    "begin_suppress_tokens": [5],
    "bad_words_ids": [[9]],
    "stop_strings": ["a"],
    "cache_implementation": "static",
}


@pytest.mark.parametrize("name", ["generate", "static"])
@pytest.mark.parametrize("key", _DEFAULTS)
@torch.no_grad()
def test_a_checkpoints_generation_config_changes_nothing_that_is_sampled(name, key):
    """Sampling is from softmax(logits / temperature) and nothing else."""
    model = tiny_llama(tiny_tokenizer())
    wanted = make_sampler(name, model).sample(requests(4), decoding())
    model.generation_config = GenerationConfig()
    setattr(model.generation_config, key, _DEFAULTS[key])
    assert_same(make_sampler(name, model).sample(requests(4), decoding()), wanted)
    assert getattr(model.generation_config, key) == _DEFAULTS[key]  # it is saved as it was


@pytest.mark.parametrize("name", ["cached", "paged"])
@torch.no_grad()
def test_nothing_outlasts_a_change_of_the_weights(name):
    model = tiny_llama(tiny_tokenizer())
    sampler = make_sampler(name, model)
    before = sampler.sample(requests(6), decoding(greedy=True))
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    wanted = GenerateSampler(model).sample(requests(6), decoding(greedy=True))
    actual = sampler.sample(requests(6), decoding(greedy=True))
    assert [list(c.token_ids) for c in actual] == [list(c.token_ids) for c in wanted]
    assert [list(c.token_ids) for c in actual] != [list(c.token_ids) for c in before]


@pytest.mark.parametrize(
    ("words", "error", "word"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", torch.OutOfMemoryError, "2 GiB"),
        ("a kernel is missing", InputError, "sampler=paged: .*a kernel is missing"),
    ],
)
def test_continuous_batching_that_ends_early_says_why(words, error, word):
    model = tiny_llama(tiny_tokenizer())
    failed = SimpleNamespace(error=words, generated_tokens=[1], logprobs=[-1.0])
    model.generate_batch = lambda *args, **kwargs: {"0": failed}
    with pytest.raises(error, match=word):
        make_sampler("paged", model).sample(requests(2), decoding())


END = tiny_tokenizer().eos_token_id


class _Broken:
    def __init__(self, break_one):
        self.break_one = break_one

    def sample(self, asked, decoding):
        good = Completion([3] * decoding.max_new_tokens, [-1.0] * decoding.max_new_tokens)
        return self.break_one([good] * len(asked))


@pytest.mark.parametrize(
    ("break_one", "word"),
    [
        (lambda all: all[1:], "1 replies to 2 prompts"),
        (lambda all: [replace(all[0], logprobs=[-1.0]), *all[1:]], "log-probabilities"),
        (lambda all: [all[0], Completion([], [])], "0 tokens"),
        (lambda all: [all[0], Completion([3] * 9, [-1.0] * 9)], "9 tokens"),
        (lambda all: [all[0], Completion([10**6], [-1.0])], "vocabulary"),
        (lambda all: [all[0], Completion([3] * 4, [-1.0] * 3 + [float("nan")])], "finite"),
        (lambda all: [all[0], Completion([3] * 4, [0.5] * 4)], "of 0.5: must be at most 0"),
        (lambda all: [all[0], Completion([3] * 2, [-1.0] * 2)], "2 of 4 tokens and no end"),
        (lambda all: [all[0], Completion([3, END, 3], [-1.0] * 3)], "1 tokens after its end"),
    ],
)
def test_what_a_sampler_gives_is_checked(break_one, word):
    tokenizer = tiny_tokenizer()
    policy = ModelPolicy(
        tiny_llama(tokenizer), Renderer(tokenizer), max_new_tokens=4, sampler=_Broken(break_one)
    )
    dialogues = [Dialogue([Message("user", "a")], key=(i,)) for i in range(2)]
    with pytest.raises(InputError, match=word):
        policy.act(dialogues)


@pytest.mark.parametrize("name", ["static", "paged"])
def test_samplers_of_text_refuse_models_that_see(name):
    tokenizer = tiny_tokenizer(with_images=True)
    model = THAT_SEE["mllama"][0](tokenizer)
    with pytest.raises(InputError, match=f"sampler={name}"):
        make_sampler(name, model)


def test_the_memory_of_a_cpu_runs_out_too():
    with pytest.raises(RuntimeError) as actual:
        torch.empty(1 << 60)
    assert is_out_of_memory(actual.value)
    with pytest.raises(RuntimeError) as actual:
        torch.ones(2) @ torch.ones(3)
    assert not is_out_of_memory(actual.value)


def test_sampling_goes_on_with_fewer_together():
    tokenizer = tiny_tokenizer()
    model = tiny_llama(tokenizer)
    dialogues = [Dialogue([Message("user", "a" * i)], key=(i,)) for i in range(1, 9)]
    wanted = ModelPolicy(model, Renderer(tokenizer), max_new_tokens=4).act(dialogues)
    policy = ModelPolicy(model, Renderer(tokenizer), max_new_tokens=4)
    sample, limit = policy.sampler.sample, 3

    def little_memory(requests, decoding):
        if len(requests) > limit:
            raise torch.OutOfMemoryError("too much")
        return sample(requests, decoding)

    policy.sampler.sample = little_memory
    with pytest.warns(UserWarning, match="continuing with 2; lower sampling_batch"):
        actual = policy.act(dialogues)
    assert [r.token_ids for r in actual] == [r.token_ids for r in wanted]
    limit = 0
    with (
        pytest.warns(UserWarning, match="continuing with 1"),
        pytest.raises(InputError, match="max_new_tokens"),
    ):
        policy.act(dialogues)
