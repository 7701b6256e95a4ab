"""Models that see: one prompt with an image, batches with and without, sampling against scoring."""

import inspect
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from gym_dialogue import Dialogue, InputError, Message
from gym_policy import ModelPolicy, Renderer, load_model, load_renderer, sequence_images
from gym_policy.logprobs import score_tokens
from gym_policy.models.adapter import add_adapter
from gym_policy.models.load import save_renderer
from gym_policy.models.testing import ARCHITECTURES
from gym_policy.parts import (
    check_parts,
    freeze_parts,
    parameter_groups,
    part_of,
)
from gym_policy.sequence_images import image_token
from gym_policy.testing import (
    SIDE,
    tiny_llama,
    tiny_llava,
    tiny_llava_processor,
    tiny_mllama_processor,
    tiny_tokenizer,
)
from gym_policy.training.freezing import freeze_unreached
from gym_policy.vision import (
    blank,
    checkpoint_activations,
    features_stay,
    image_inputs,
    image_token_id,
    image_words,
    join_images,
)


def draw_image(seed, wide=False):
    shape = (SIDE, 2 * SIDE if wide else SIDE, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def make_policy(kind, **kwargs):
    model, tokenizer, processor = ARCHITECTURES[kind](0)
    return ModelPolicy(model, Renderer(tokenizer, processor), max_new_tokens=6, **kwargs)


def played(policy, images, turns=3):
    """Dialogues of several turns, all in one batch, with prompts of different lengths."""
    dialogues = [
        Dialogue([Message("user", "Make 24." + " Please." * i, image)], key=(i,))
        for i, image in enumerate(images)
    ]
    for turn in range(turns):
        for dialogue, reply in zip(dialogues, policy.act(dialogues), strict=True):
            dialogue.messages.append(Message("assistant", reply.text, reply=reply))
            if turn < turns - 1:
                dialogue.messages.append(Message("user", "No: " + "again. " * (turn + 1)))
    return dialogues


def scored(policy, dialogues):
    """Log-probabilities of all reply tokens, by one right-padded pass over whole dialogues."""
    rendered = [policy.renderer.render(dialogue) for dialogue in dialogues]
    width = max(len(r.token_ids) for r in rendered)
    pad = policy.renderer.tokenizer.pad_token_id
    ids = torch.tensor([r.token_ids + [pad] * (width - len(r.token_ids)) for r in rendered])
    images = join_images(
        [r.processed_image for r in rendered], [r.image_at for r in rendered], "cpu"
    )
    with torch.no_grad():
        logits = policy.model(input_ids=ids, **image_inputs(policy.model, ids, images)).logits
    actual = []
    for row, r in enumerate(rendered):
        at = np.flatnonzero(np.asarray(r.turn) >= 0)
        forbidden = image_token_id(policy.model)
        actual.append(score_tokens(logits[row, at - 1], ids[row, at], 1.0, forbidden)[0].numpy())
    return actual


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("keeps_features", [True, False])
def test_sampled_and_recomputed_logprobs_agree_over_three_turns(kind, keeps_features):
    policy = make_policy(kind)
    images = [draw_image(1), None, draw_image(2, wide=True), None, draw_image(3)]
    dialogues = played(policy, images)
    for dialogue in dialogues:
        processed = policy.renderer.render(dialogue).processed_image
        if processed is not None and not keeps_features:
            processed.features = None
    for dialogue, logprobs in zip(dialogues, scored(policy, dialogues), strict=True):
        sampled = [p for m in dialogue.messages if m.reply for p in m.reply.logprobs]
        np.testing.assert_allclose(logprobs, sampled, atol=1e-4)


def _tower(model):
    """The module that sees, of whatever name."""
    return next(m for n, m in model.named_modules() if n and part_of(n) == "vision")


@pytest.mark.parametrize("kind", [kind for kind in ARCHITECTURES if kind != "mllama"])
def test_dialogues_of_several_images_stand_beside_others(kind):
    policy = make_policy(kind)
    several = np.stack([draw_image(seed) for seed in range(4)])
    dialogues = played(policy, [several, None, draw_image(5, wide=True), several[:2]])
    for dialogue, logprobs in zip(dialogues, scored(policy, dialogues), strict=True):
        np.testing.assert_allclose(logprobs, _replies(dialogue)[1], atol=1e-4)
    token = image_token(policy.model.config)
    counts = [policy.renderer.render(dialogue).token_ids.count(token) for dialogue in dialogues]
    assert counts[1] == 0
    assert counts[0] == 2 * counts[3] > 0


def test_several_images_for_a_model_that_takes_one_are_refused():
    several = np.stack([draw_image(1), draw_image(2)])
    with pytest.raises(InputError, match=r"has 2 images, and a model that cross-attends .* one"):
        make_policy("mllama").renderer.render([Message("user", "Look.", several)])


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_text_that_spells_an_image_shows_none(kind):
    policy = make_policy(kind)
    word = sorted(image_words(policy.renderer.processor))[0]
    dialogue = played(policy, [draw_image(1)], turns=1)[0]
    dialogue.messages[0] = Message("user", f"Look at {word}.", draw_image(1))
    dialogue.messages += [Message("user", f"You said {word}."), Message("assistant", f"{word}!")]
    dialogue.memo.clear()
    (logprobs,) = scored(policy, [dialogue])
    assert np.isfinite(logprobs).all()
    text = policy.renderer.tokenizer.decode(policy.renderer.render(dialogue).token_ids)
    assert f"Look at {word[0]} {word[1:]}." in text


def _replies(dialogue):
    replies = [m.reply for m in dialogue.messages if m.reply]
    return [m.text for m in dialogue.messages], [p for reply in replies for p in reply.logprobs]


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_dialogue_does_not_depend_on_the_others_of_its_batch(kind):
    images = [draw_image(1), None, draw_image(2)]
    together = played(make_policy(kind), images)
    alone = [played(make_policy(kind), [images[0]])[0], played(make_policy(kind), [None, None])[1]]
    for single, other in zip(alone, together, strict=False):
        (texts, logprobs), (other_texts, other_logprobs) = _replies(single), _replies(other)
        assert texts == other_texts
        np.testing.assert_allclose(logprobs, other_logprobs, atol=1e-4)


def test_sampled_and_recomputed_logprobs_agree_in_bfloat16():
    policy = make_policy("mllama")
    policy.model.to(torch.bfloat16)
    dialogues = played(policy, [draw_image(1), None, draw_image(2, wide=True)])
    for dialogue, logprobs in zip(dialogues, scored(policy, dialogues), strict=True):
        np.testing.assert_allclose(logprobs, _replies(dialogue)[1], atol=0.1)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_another_image_changes_what_is_replies(kind):
    policy = make_policy(kind)
    rendered = [
        policy.renderer.render([Message("user", "Make 24.", draw_image(seed))]) for seed in (1, 2)
    ]
    logits = []
    for r in rendered:
        ids = torch.tensor([r.token_ids])
        images = join_images([r.processed_image], [r.image_at], "cpu")
        with torch.no_grad():
            logits.append(policy.model(input_ids=ids, **image_inputs(policy.model, ids, images)))
    gap = (logits[0].logits - logits[1].logits)[0, -1].abs().max()
    assert rendered[0].token_ids == rendered[1].token_ids
    assert gap > 1e-3


def test_mllama_sees_what_its_own_processor_and_forward_make_of_an_image():
    policy = make_policy("mllama")
    tokenizer, processor = policy.renderer.tokenizer, policy.renderer.processor
    image = draw_image(5, wide=True)
    rendered = policy.renderer.render([Message("user", "Look.", image)])
    ids = torch.tensor([rendered.token_ids])
    own = processor(
        images=[image],
        text=[tokenizer.decode(rendered.token_ids)],
        add_special_tokens=False,
        return_tensors="pt",
    )
    images = join_images([rendered.processed_image], [rendered.image_at], "cpu")
    with torch.no_grad():
        expected = policy.model(**own).logits
        actual = policy.model(input_ids=ids, **image_inputs(policy.model, ids, images)).logits
    assert own["input_ids"].tolist() == ids.tolist()
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_equal_images_are_encoded_once():
    policy = make_policy("mllama")
    seen = []
    _tower(policy.model).register_forward_hook(
        lambda module, args, kwargs, output: seen.append(len(kwargs["pixel_values"])),
        with_kwargs=True,
    )
    played(policy, [draw_image(1), None, draw_image(2), draw_image(1)])
    assert sum(seen) == 2


def test_gradients_reach_the_vision_part_unless_it_is_frozen():
    for frozen in ([], ["vision"], ["vision", "projector"]):
        policy = make_policy("mllama")
        freeze_parts(policy.model, frozen)
        rendered = policy.renderer.render([Message("user", "Look.", draw_image(1))])
        ids = torch.tensor([rendered.token_ids])
        images = join_images([rendered.processed_image], [rendered.image_at], "cpu")
        logits = policy.model(input_ids=ids, **image_inputs(policy.model, ids, images)).logits
        logits[0, -1].logsumexp(-1).backward()
        reached = {
            part_of(name)
            for name, p in policy.model.named_parameters()
            if p.grad is not None and p.grad.abs().sum() > 0
        }
        assert reached == {"vision", "projector", "language"} - set(frozen)


def test_freezing_everything_is_refused():
    with pytest.raises(InputError, match="nothing of this model to train"):
        freeze_parts(make_policy("mllama").model, ["vision", "projector", "language"])


def test_learning_rates_by_part():
    model = make_policy("llava").model
    groups = parameter_groups(model.named_parameters(), 1.0, {"vision": 0.1, "projector": 0.5})
    names = {id(p): name for name, p in model.named_parameters()}
    lr_of = {part_of(names[id(p)]): g["lr"] for g in groups for p in g["params"]}
    assert lr_of == {"vision": 0.1, "projector": 0.5, "language": 1.0}
    assert sum(len(g["params"]) for g in groups) == len(names)


def test_what_an_image_does_not_pass_through_is_frozen():
    tokenizer = tiny_tokenizer(with_images=True)
    model = tiny_llava(tokenizer)
    model.config.vision_feature_layer = -2  # the tower's last layer is then without effect
    renderer = Renderer(tokenizer, tiny_llava_processor(tokenizer))
    freeze_unreached(model, renderer.render([Message("user", "Look.", draw_image(1))]))
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert not any("vision_tower" in name and "layers.0" in name for name in frozen)
    assert all(part_of(name) == "vision" for name in frozen)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_saved_checkpoint_sees_the_same(kind, tmp_path):
    policy = make_policy(kind, greedy=True)
    policy.model.save_pretrained(tmp_path)
    save_renderer(policy.renderer, tmp_path)
    loaded = ModelPolicy(
        load_model(str(tmp_path)), load_renderer(str(tmp_path)), max_new_tokens=6, greedy=True
    )
    texts = [[m.text for m in played(p, [draw_image(1)])[0].messages] for p in (policy, loaded)]
    assert texts[0] == texts[1]


def test_a_text_model_refuses_images():
    tokenizer = tiny_tokenizer(with_images=True)
    policy = ModelPolicy(tiny_llama(tokenizer), Renderer(tokenizer))
    with pytest.raises(InputError, match="shows images, and the model reads text only"):
        policy.act([Dialogue([Message("user", "Look.", draw_image(1))])])


def test_a_text_model_with_a_stray_processor_refuses_images():
    tokenizer = tiny_tokenizer(with_images=True)
    renderer = Renderer(tokenizer, tiny_llava_processor(tokenizer))
    policy = ModelPolicy(tiny_llama(tokenizer), renderer)
    with pytest.raises(InputError, match="model type llama: reads text only"):
        policy.act([Dialogue([Message("user", "Look.", draw_image(1))])])


def test_a_checkpoint_without_its_processor_refuses_images(tmp_path):
    policy = make_policy("mllama")
    policy.model.save_pretrained(tmp_path)
    policy.renderer.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"image processor .* is missing"):
        load_renderer(str(tmp_path)).require_images("the task")


def test_a_processor_that_cannot_be_read_matters_with_images_only(tmp_path):
    policy = make_policy("mllama")
    save_renderer(policy.renderer, tmp_path)
    (tmp_path / "processor_config.json").write_text("{")
    renderer = load_renderer(str(tmp_path))
    assert renderer.render([Message("user", "Make 24.")]).token_ids
    with pytest.raises(InputError, match="the task shows images, but the image processor of"):
        renderer.require_images("the task")


def test_a_processor_in_the_files_of_2024(tmp_path):
    policy = make_policy("mllama")
    policy.renderer.tokenizer.save_pretrained(tmp_path)
    policy.renderer.processor.image_processor.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "preprocessor_config.json").read_text())
    config["processor_class"] = "MllamaProcessor"
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    rendered = [
        renderer.render([Message("user", "Look.", draw_image(1))])
        for renderer in (policy.renderer, load_renderer(str(tmp_path)))
    ]
    assert rendered[0].token_ids == rendered[1].token_ids
    pixels = [r.processed_image.tensors["pixel_values"] for r in rendered]
    torch.testing.assert_close(*pixels)


def test_a_template_without_a_place_for_images():
    tokenizer = tiny_tokenizer(with_images=True)
    processor = tiny_mllama_processor(tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|user|>' }}{{ 'text' }}{{ m['content'] if m['content'] is "
        "string }}{{ '<|end|>' }}{% endfor %}"
    )
    renderer = Renderer(tokenizer, processor)
    with pytest.raises(InputError, match="no place for an image"):
        renderer.render([Message("user", "Look.", draw_image(1))])


def test_images_of_different_shapes_for_cross_attention():
    policy = make_policy("mllama")
    processed = [
        policy.renderer.render([Message("user", "Look.", draw_image(i))]).processed_image
        for i in range(2)
    ]
    processed[0].tensors["pixel_values"] = processed[0].tensors["pixel_values"][..., :14]
    with pytest.raises(InputError, match="one resolution"):
        join_images(processed, [0, 0], "cpu")


def _own_reply(policy, rendered, ids):
    """The greedy reply of the model's own `generate`, from the processor's tensors."""
    model, ids = policy.model, torch.tensor([ids])
    tensors = {k: v for k, v in rendered.processed_image.tensors.items() if k != "num_crops"}
    accepted = inspect.signature(model.model.forward).parameters
    sees = (ids == image_token(model.config)).int()
    types = {name: sees for name in ("mm_token_type_ids", "token_type_ids") if name in accepted}
    sampled = model.generate(
        input_ids=ids,
        **tensors,
        **types,
        max_new_tokens=6,
        do_sample=False,
        suppress_tokens=[image_token(model.config)],
        eos_token_id=list(policy.renderer.stop_ids),
        pad_token_id=policy.renderer.tokenizer.pad_token_id,
    )
    return sampled[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("kind", [kind for kind in ARCHITECTURES if kind != "mllama"])
def test_greedy_replies_are_those_of_the_models_own_generate(kind):
    policy = make_policy(kind, greedy=True)
    for dialogue in played(policy, [draw_image(1), draw_image(2, wide=True)]):
        rendered = policy.renderer.render(dialogue)
        ends = rendered.prompt_ends
        replies = [m.reply for m in dialogue.messages if m.reply]
        for end, reply in zip(ends, replies, strict=True):
            own = _own_reply(policy, rendered, rendered.token_ids[: end + 1])
            assert own == list(reply.token_ids)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_an_image_is_encoded_once_an_episode(kind):
    policy = make_policy(kind)
    calls = []
    _tower(policy.model).register_forward_hook(lambda *_: calls.append(1))
    (dialogue,) = played(policy, [draw_image(1)])
    assert len(calls) == 1
    rendered = policy.renderer.render(dialogue)
    ids = torch.tensor([rendered.token_ids])
    freeze_parts(policy.model, ["vision", "projector"])
    assert features_stay(policy.model)
    images = join_images([rendered.processed_image], [rendered.image_at], "cpu")
    policy.model(input_ids=ids, **image_inputs(policy.model, ids, images))  # as the learner does
    assert len(calls) == 1


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_gradients_reach_what_sees_unless_it_is_frozen(kind):
    policy = make_policy(kind)
    rendered = policy.renderer.render([Message("user", "Look.", draw_image(1, wide=True))])
    assert not features_stay(policy.model)
    learned = {part_of(name) for name in _gradients(policy.model, rendered)}
    assert {"vision", "language"} <= learned
    freeze_parts(policy.model, ["vision"])
    assert "vision" not in {part_of(name) for name in _gradients(policy.model, rendered)}
    # Where features stand in the sequence, they are behind the projector.
    assert features_stay(policy.model) == (kind == "mllama")


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "gemma3", "idefics3", "llava"])
def test_a_forward_pass_that_takes_no_features_gets_pixels(kind, monkeypatch):
    policy = make_policy(kind)
    rendered = policy.renderer.render([Message("user", "Look.", draw_image(1))])
    ids = torch.tensor([rendered.token_ids])
    images = join_images([rendered.processed_image], [rendered.image_at], "cpu")
    with torch.no_grad():
        expected = policy.model(input_ids=ids, **image_inputs(policy.model, ids, images)).logits
        known = sequence_images._arguments
        older = lambda function: known(function) - {"mm_encoder_outputs"}  # noqa: E731
        monkeypatch.setattr(sequence_images, "_arguments", older)
        inputs = image_inputs(policy.model, ids, images)
        assert "pixel_values" in inputs
        torch.testing.assert_close(policy.model(input_ids=ids, **inputs).logits, expected)


def test_an_image_that_the_processor_does_not_take_is_refused():
    renderer = make_policy("qwen2_5_vl").renderer
    image = np.zeros((1, 400, 3), np.uint8)
    with pytest.raises(InputError, match="image of 400 x 1 pixels: the image processor"):
        renderer.render([Message("user", "Look.", image)])


PARTS_ONLY = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|image|>' }}{% elif part['type'] == 'text' %}"
    "{{ part['text'] }}{% endif %}{% endfor %}{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def test_a_template_that_knows_parts_only_loses_no_text():
    tokenizer = tiny_tokenizer(with_images=True)
    tokenizer.chat_template = PARTS_ONLY
    renderer = Renderer(tokenizer, tiny_mllama_processor(tokenizer))
    messages = [Message("user", "Make 24."), Message("assistant", "6"), Message("user", "No.")]
    text = tokenizer.decode(renderer.render(messages).token_ids)
    expected = "<|user|>Make 24.<|end|><|assistant|>6<|end|><|user|>No.<|end|><|assistant|>"
    assert text == expected
    shown = renderer.render([replace(messages[0], image=draw_image(1)), *messages[1:]])
    assert tokenizer.decode(shown.token_ids) == expected.replace("Make", "<|image|>Make")


@pytest.mark.parametrize(
    ("template", "word"),
    [
        (
            "{% for m in messages %}{{ '<|user|>' }}{{ '<|end|>' }}{% endfor %}",
            "leaves out the text",
        ),
        ("{{ raise_exception('no roles here') }}", "no roles here"),
    ],
)
def test_templates_that_cannot_be_used(template, word):
    tokenizer = tiny_tokenizer(with_images=True)
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=word):
        Renderer(tokenizer)


def test_a_template_that_refuses_images_is_bad_input():
    tokenizer = tiny_tokenizer(with_images=True)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '<|end|>' }}{% endfor %}"
    renderer = Renderer(tokenizer, tiny_mllama_processor(tokenizer))
    with pytest.raises(InputError, match="does not take messages of user and an image"):
        renderer.render([Message("user", "Look.", draw_image(1))])


@pytest.mark.parametrize("places", [(0, 1), (2,)])
def test_no_image_is_dropped(places):
    renderer = make_policy("mllama").renderer
    messages = [Message("system", "a"), Message("user", "b"), Message("assistant", "c")]
    messages = [*messages[:2], messages[2], Message("user", "d")]
    if places == (2,):
        messages[3] = replace(messages[3], image=draw_image(1))
    else:
        messages[:2] = [replace(m, image=draw_image(1)) for m in messages[:2]]
    with pytest.raises(InputError, match="one image, before the first reply"):
        renderer.render(messages)


def _gradients(model, rendered, images=None):
    ids = torch.tensor([rendered.token_ids])
    if images is None:
        images = join_images([rendered.processed_image], [rendered.image_at], "cpu")
    model.zero_grad()
    logits = model(input_ids=ids, **image_inputs(model, ids, images)).logits
    logits[0, -1].logsumexp(-1).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_activations_of_the_vision_tower_are_computed_again():
    policy = make_policy("mllama")
    model = policy.model.train()
    rendered = policy.renderer.render([Message("user", "Look.", draw_image(1, wide=True))])
    expected = _gradients(model, rendered)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        _gradients(model, rendered)
    before = sum(kept)
    checkpoint_activations(model)
    kept.clear()
    actual = _gradients(model, rendered)
    torch.testing.assert_close(actual, expected)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        tower = model.model.vision_model
        tower(**{k: v for k, v in rendered.processed_image.tensors.items() if k != "num_tiles"})
    assert sum(kept) < 0.5 * before


def test_a_blank_image_changes_nothing_but_takes_part():
    policy = make_policy("mllama")
    shown = policy.renderer.render([Message("user", "Look.", draw_image(1))])
    text = policy.renderer.render([Message("user", "Make 24.")])
    ids = torch.tensor([text.token_ids])
    images = blank(shown.processed_image, ids.shape[1])
    with torch.no_grad():
        expected = policy.model(input_ids=ids).logits
        actual = policy.model(input_ids=ids, **image_inputs(policy.model, ids, images)).logits
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    gradients = _gradients(policy.model, text, images)
    assert any(part_of(name) == "vision" for name in gradients)
    assert all(g.abs().sum() == 0 for n, g in gradients.items() if part_of(n) == "vision")


@pytest.mark.parametrize(
    ("freeze", "part_lr", "word"),
    [
        (["vision"], {}, "has only language"),
        ([], {"projector": 1.0}, "has only language"),
    ],
)
def test_parts_that_a_model_does_not_have(freeze, part_lr, word):
    with pytest.raises(InputError, match=word):
        check_parts(tiny_llama(tiny_tokenizer(with_images=True)), freeze, part_lr)
    with pytest.raises(InputError, match="give one of them"):
        check_parts(make_policy("mllama").model, ["vision"], {"vision": 1.0})


@pytest.mark.parametrize("frozen", [[], ["vision"], ["vision", "projector"]])
def test_adapters_go_on_the_parts_that_are_not_frozen(frozen):
    model = make_policy("mllama").model
    add_adapter(model, "base", 4, 8.0, 0.0, ["all-linear"], frozen)
    adapted = {part_of(name) for name, p in model.named_parameters() if p.requires_grad}
    assert adapted == {"vision", "projector", "language"} - set(frozen)
