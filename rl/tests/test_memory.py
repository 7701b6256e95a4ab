"""The planned memory of a run, compared with measurements on real tensors."""

import json
import re
import sys
from dataclasses import replace

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from evaluation.play import EvalConfig
from gym_dialogue import Dialogue, InputError, Message, RandomPolicy, Task, rollout
from gym_dialogue.make import EnvConfig, make_envs
from gym_policy import ModelPolicy, Renderer
from gym_policy.logprobs import LOGITS_AT_ONCE
from gym_policy.models.adapter import add_adapter
from gym_policy.models.architecture import text_parameters, text_sizes
from gym_policy.models.load import auto_class
from gym_policy.models.testing import ARCHITECTURES as VISION
from gym_policy.models.testing import save_architecture
from gym_policy.training.freezing import freeze_unreached
from gym_policy.vision import checkpoint_activations, image_inputs, join_images
from rl.actor_critic import ActorCritic
from rl.bench.memory import Live, counted, loss_against_body, small_critic
from rl.bench.shapes import SHAPES
from rl.config import LoraSettings, PPOConfig, RLConfig
from rl.devices import Launch, read_launch
from rl.learner import make_optimizer
from rl.memory import print_plan
from rl.memory.activations import LAYER, LOGITS, Activations
from rl.memory.advice import advice
from rl.memory.engine import EngineMemory, describe_engine, engine_memory
from rl.memory.lengths import measure_lengths
from rl.memory.parameters import Counts, count_parameters
from rl.memory.plan import find_facts, plan
from rl.memory.precision import Precision, precision_of
from rl.memory.states import _deepspeed_estimate, host_memory, model_states
from rl.memory.text import describe
from rl.memory.units import DEVICE_BYTES, GIB
from rl.memory.vision import IMAGES, ImageWork
from rl.testing import tiny_llama, tiny_mllama, tiny_tokenizer

PAPER_MODEL = "tianzhechu/GP-L-Init"
EIGHT = Launch(8, zero_stage=2)


def llama(hidden=64, feed_forward=224, heads=4, key_heads=2, layers=4, words=262):
    return LlamaConfig(
        vocab_size=words,
        hidden_size=hidden,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
    )


ARCHITECTURES = {
    "llama": llama(),
    "wide": llama(hidden=128, feed_forward=256, heads=4, key_heads=4, layers=3),
    "narrow": llama(hidden=32, feed_forward=256, heads=8, key_heads=2, layers=5),
    "mllama": tiny_mllama(tiny_tokenizer()).config,  # two of its four layers look at an image
}

SMALL = RLConfig(ppo=PPOConfig(value_hidden=[8]))
HALF = replace(SMALL, dtype="bfloat16")
KINDS = {
    "float32": (SMALL, Launch()),
    "autocast": (HALF, Launch()),
    "bfloat16": (HALF, Launch(zero_stage=2)),
    "adapter": (replace(HALF, lora=LoraSettings(rank=8)), Launch()),
    "float32 adapter": (replace(SMALL, lora=LoraSettings(rank=8)), Launch()),
}


def build(architecture, config, launch):
    """Return a run's ActorCritic as training makes it; DeepSpeed only casts the model here."""
    precision = precision_of(config, launch)
    dtype = torch.float32 if precision.base == 4 else torch.bfloat16
    torch.manual_seed(0)
    model = auto_class(architecture).from_config(architecture).to(dtype)
    if config.lora.rank:
        lora = config.lora
        add_adapter(model, "base", lora.rank, lora.alpha, lora.dropout, lora.targets)
    freeze_unreached(model)
    critic = ActorCritic(model, 1.0, tuple(config.ppo.value_hidden))
    critic = critic.to(torch.bfloat16) if launch.zero_stage else critic
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    return critic


def inputs(batch, length, replies, words):
    """Return forward arguments that score the last `replies` tokens of each sequence."""
    ids = torch.arange(batch * length).reshape(batch, length) % words
    rows = torch.arange(batch).unsqueeze(1) * length
    at = (rows + torch.arange(length - replies, length) - 1).flatten()
    return {"input_ids": ids, "predict_at": at, "targets": at % words, "value_at": rows.flatten()}


def activations(architecture, config, launch):
    counts = count_parameters(architecture, config)
    precision = precision_of(config, launch)
    dropout = config.lora.dropout > 0
    return Activations(text_sizes(architecture), counts, precision, dropout)


def autocast(config, launch):
    on = precision_of(config, launch).autocast
    return torch.autocast("cpu", torch.bfloat16, enabled=on)


def kept_for_backward(critic, arguments):
    """Return the bytes that autograd saves in a forward pass, parameters aside."""
    return _saved(critic, lambda: critic(**arguments))


def _saved(model, run):
    """Return the bytes that autograd saves while `run` runs, a model's parameters aside."""
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # kept alive, so that its address is not reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _ = run()
    return sum(storage.nbytes() for storage in kept.values())


CASES = [(name, kind) for name in ("llama", "mllama") for kind in KINDS]


@pytest.mark.parametrize(("name", "kind"), [*CASES, ("wide", "float32"), ("narrow", "bfloat16")])
def test_kept_activations_match_what_autograd_saves(name, kind):
    architecture, (config, launch) = ARCHITECTURES[name], KINDS[kind]
    critic = build(architecture, config, launch).train()
    work = activations(architecture, config, launch)
    with autocast(config, launch):
        measured = kept_for_backward(critic, inputs(4, 96, 1, work.sizes.vocabulary))
    assert work.kept(4 * 96, checkpointing=False) == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_kept_activations_of_adapters_match_what_autograd_saves(dropout):
    lora = LoraSettings(rank=4, dropout=dropout, targets=["q_proj", "v_proj"])
    config = replace(HALF, lora=lora)
    critic = build(ARCHITECTURES["llama"], config, Launch()).train()
    work = activations(ARCHITECTURES["llama"], config, Launch())
    measured = kept_for_backward(critic, inputs(4, 96, 1, work.sizes.vocabulary))
    assert work.kept(4 * 96, checkpointing=False) == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("llama", "bfloat16"), ("llama", "autocast"), ("llama", "adapter"), ("mllama", "float32")],
)
def test_peaks_of_learning_and_scoring_match_the_plan(name, kind, checkpointing):
    architecture, (config, launch) = ARCHITECTURES[name], KINDS[kind]
    config = replace(config, gradient_checkpointing=checkpointing)
    critic = build(architecture, config, launch)
    for parameter in critic.parameters():  # the states count gradients
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    work = activations(architecture, config, launch)
    batch, length = 8, 96
    tokens = batch * length
    for replies in (1, 80):
        arguments = inputs(batch, length, replies, work.sizes.vocabulary)
        with Live(critic.train()) as learning:
            with autocast(config, launch):
                scores = critic(**arguments)
            loss = scores.logprobs.sum() + scores.values.sum() + 0.0 * scores.entropy.sum()
            loss.backward()
        layer = work.learning(tokens, checkpointing)
        logits = work.learnt_logits(batch * replies, checkpointing)
        planned = work.kept(tokens, checkpointing) + max(layer, logits)
        assert planned == pytest.approx(learning.peak, rel=0.2)
        with torch.no_grad(), autocast(config, launch), Live(critic.eval()) as scoring:
            critic(**arguments)
        planned = work.casts + max(work.forward(tokens), work.scored_logits(batch * replies))
        assert planned == pytest.approx(scoring.peak, rel=0.2)


@pytest.mark.parametrize(("batch", "prompt", "reply"), [(32, 120, 10), (4, 40, 80)])
@pytest.mark.parametrize("name", ["llama", "mllama"])
def test_peak_of_sampling_matches_the_plan(name, batch, prompt, reply):
    torch.manual_seed(0)
    model = auto_class(ARCHITECTURES[name]).from_config(ARCHITECTURES[name]).eval()
    work = activations(ARCHITECTURES[name], SMALL, Launch())
    renderer = Renderer(tiny_tokenizer())
    text = "x" * (prompt - len(renderer.render([Message("user", "")]).token_ids))
    renderer.stop_ids = (work.sizes.vocabulary,)  # no token: replies reach maximum length
    policy = ModelPolicy(model, renderer, max_new_tokens=reply, batch_size=batch)
    with Live(model) as live:
        # All differ: equal prompts would be computed once.
        texts = [chr(ord("A") + i) + text[1:] for i in range(batch)]
        policy.act([Dialogue([Message("user", t)], key=(i,)) for i, t in enumerate(texts)])
    parts = work.sampling(batch, prompt, reply)
    planned = parts["key-value cache"] + max(parts[LAYER], parts[LOGITS])
    # Sampling is planned from above: Mllama's cache allocates nothing ahead, and layers are few.
    assert 0.95 * live.peak < planned < 1.5 * live.peak


def state_bytes(critic, optimizer):
    """Return bytes by part of real tensors after a step."""
    moments = [t for state in optimizer.state.values() for t in state.values() if t.dim()]
    parts = {
        "weights": list(critic.parameters()),
        "gradients": [p.grad for p in critic.parameters() if p.grad is not None],
        "optimizer states": moments,
    }
    return {k: sum(t.untyped_storage().nbytes() for t in v) for k, v in parts.items()}


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
@pytest.mark.parametrize("kind", ["float32", "autocast", "adapter"])
@pytest.mark.parametrize("name", ["llama", "mllama"])
def test_states_match_those_of_a_real_step(name, kind, algorithm):
    architecture, (config, launch) = ARCHITECTURES[name], KINDS[kind]
    config = replace(config, algorithm=algorithm)
    critic = build(architecture, config, launch)
    critic.value_head.requires_grad_(algorithm == "ppo")
    optimizer = make_optimizer(critic, config)
    with autocast(config, launch):
        scores = critic(**inputs(1, 8, 2, 262))
    loss = scores.logprobs.sum() + (scores.values.sum() if algorithm == "ppo" else 0.0)
    loss.backward()
    optimizer.step()
    counts = count_parameters(architecture, config)
    precision = precision_of(config, launch)
    assert model_states(counts, precision, launch) == state_bytes(critic, optimizer)
    trained = [p.numel() for p in critic.parameters() if p.requires_grad]
    assert (counts.trained, counts.total) == (
        sum(trained),
        sum(p.numel() for p in critic.parameters()),
    )


def test_text_parameters_are_those_that_training_does_not_freeze():
    for name in ("llama", "mllama"):
        model = auto_class(ARCHITECTURES[name]).from_config(ARCHITECTURES[name])
        freeze_unreached(model)
        reached = {id(p) for p in text_parameters(model)}
        assert reached == {id(p) for p in model.parameters() if p.requires_grad}


ZERO = [
    Launch(8, zero_stage=2),
    Launch(8, zero_stage=2, offload_optimizer="cpu"),
    Launch(16, machines=2, zero_stage=3),
    Launch(8, zero_stage=3, offload_optimizer="cpu"),
    Launch(8, zero_stage=3, offload_optimizer="cpu", offload_parameters="cpu"),
]


@pytest.mark.parametrize("launch", ZERO, ids=str)
def test_zero_formulas_agree_with_deepspeeds_estimators(launch, monkeypatch):
    counts = Counts(
        base=10_670_220_835,
        base_trained=8_030_294_016,
        added=4_720_641,
        added_trained=4_720_641,
        matrices=0,
        largest=525_369_344,
    )
    estimated = model_states(counts, Precision(2, 2, 2, 2), launch)
    monkeypatch.setitem(sys.modules, "deepspeed.runtime.zero.stage3", None)  # not installed
    computed = model_states(counts, Precision(2, 2, 2, 2), launch)
    assert computed == pytest.approx(estimated, abs=16)
    # DeepSpeed's estimate applies where nothing is frozen; it leaves out buffers.
    monkeypatch.undo()
    whole = replace(counts, base=counts.base_trained)
    states = model_states(whole, Precision(2, 2, 2, 2), launch)
    del states["DeepSpeed's buffers"]
    estimate = _deepspeed_estimate(launch, whole.trained, whole.largest)
    assert sum(states.values()) == pytest.approx(estimate, abs=16)
    frozen = counts.total - whole.total
    share = {2: frozen, 3: frozen / launch.processes}[launch.zero_stage]
    share *= launch.offload_parameters == "none"
    difference = estimated["weights"] - states["weights"]
    assert difference == pytest.approx(2 * share, abs=16)


def test_zero_states_match_a_hand_computation():
    """8 processes, 800 parameters trained, 200 frozen."""
    counts = Counts(1000, 800, 0, 0, 0, largest=100)
    half = Precision(2, 2, 2, 2)
    launch = Launch(8, zero_stage=2, bucket=0)
    assert model_states(counts, half, launch) == {
        "weights": 2000,
        "modules gathered in turn": 0,
        "gradients": 600,
        "optimizer states": 1200,
        "DeepSpeed's buffers": 0,
    }
    parts = model_states(counts, half, replace(launch, zero_stage=3))
    # A buffer for 16-bit gradients stays, as measured with two processes.
    assert list(parts.values()) == [250, 400, 400, 1200, 200]
    parts = model_states(counts, half, replace(launch, zero_stage=1))
    assert list(parts.values()) == [2000, 0, 2000, 1200, 0]
    offload = replace(launch, offload_optimizer="cpu")
    assert list(model_states(counts, half, offload).values()) == [2000, 0, 0, 0, 200]
    host = host_memory(counts, half, offload)
    assert host == {
        "weights, while they are loaded": 8 * 2000,
        "optimizer states": 12800,
        "DeepSpeed's buffers": 6400,
    }
    assert host_memory(counts, half, replace(offload, machines=2))["optimizer states"] == 6400


def plan_file(tmp_path, **settings):
    file = tmp_path / "accelerate.yaml"
    file.write_text(yaml.safe_dump(settings))
    return str(file)


def test_launch_is_read_from_an_accelerate_configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert read_launch(None).processes == 2
    file = plan_file(tmp_path, distributed_type="NO", num_processes=1, use_cpu=True)
    assert read_launch(file) == Launch(on_cpu=True)
    file = plan_file(tmp_path, distributed_type="MULTI_GPU", num_processes=16, num_machines=2)
    assert read_launch(file) == Launch(16, 2)
    keys = {"zero_stage": 3, "offload_optimizer_device": "cpu", "offload_param_device": "nvme"}
    file = plan_file(tmp_path, distributed_type="DEEPSPEED", num_processes=8, deepspeed_config=keys)
    launch = read_launch(file)
    assert launch == Launch(8, 1, False, 3, "cpu", "nvme")
    assert str(launch) == "8 x GPU under DeepSpeed ZeRO-3, optimizer on cpu, parameters on nvme"
    deepspeed_file = tmp_path / "ds.json"
    zero = {"stage": 2, "offload_optimizer": {"device": "cpu"}, "reduce_bucket_size": 5e7}
    deepspeed_file.write_text(json.dumps({"zero_optimization": zero}))
    keys = {"deepspeed_config_file": str(deepspeed_file)}
    file = plan_file(tmp_path, distributed_type="DEEPSPEED", num_processes=8, deepspeed_config=keys)
    assert read_launch(file) == Launch(8, 1, False, 2, "cpu", bucket=50_000_000)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("distributed_type: FSDP", "FSDP is not planned for"),
        ("- 1", "keys and values"),
        ("a: [", "cannot be read"),
        ("num_processes: many", "num_processes='many'"),
        ("{distributed_type: DEEPSPEED, deepspeed_config: {zero_stage: 4}}", "zero_stage 4"),
        (
            "{distributed_type: DEEPSPEED, deepspeed_config: {deepspeed_config_file: none.json}}",
            "none.json",
        ),
    ],
)
def test_launch_that_cannot_be_planned_is_an_input_error(tmp_path, text, word):
    file = tmp_path / "accelerate.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=re.escape(word)) as caught:
        read_launch(str(file))
    assert "\n" not in str(caught.value)


@pytest.fixture
def initial_checkpoint(tmp_path):
    tokenizer = tiny_tokenizer()
    model = tiny_llama(tokenizer)
    model.save_pretrained(tmp_path / "initial")
    tokenizer.save_pretrained(tmp_path / "initial")
    return str(tmp_path / "initial")


def test_dialogues_are_no_longer_than_planned(initial_checkpoint):
    config = RLConfig(
        model=initial_checkpoint, env=EnvConfig(kwargs={"verify_iter": 3}), max_new_tokens=90
    )
    lengths = measure_lengths(config, make_envs(config.env, 1)[0])
    assert lengths.counted
    assert lengths.verify_iter == 3
    renderer = Renderer(tiny_tokenizer())
    episodes = rollout(
        make_envs(config.env, 4), RandomPolicy(), [Task(100 + i, (i,)) for i in range(20)]
    )
    longest = 0
    for episode in episodes:
        rendered = renderer.render(episode.dialogues[0])
        prompted = sum(turn < 0 for turn in rendered.turn)
        longest = max(longest, prompted + 3 * 90)
    assert 0.9 * lengths.dialogue(3, 90) < longest <= 1.02 * lengths.dialogue(3, 90)


def test_print_plan_prints_settings_launch_and_table(initial_checkpoint, monkeypatch, capsys):
    monkeypatch.delenv("ACCELERATE_CONFIG", raising=False)
    config = RLConfig(model=initial_checkpoint, num_envs=8, max_new_tokens=24, microbatch_size=4)
    print_plan(config)
    printed = capsys.readouterr().out
    settings, _, text = printed.partition("\nLaunch: ")
    assert yaml.safe_load(settings)["max_new_tokens"] == 24
    assert text.startswith("1 x ")
    assert "by its tokenizer" in text
    lines = [line for line in text.splitlines() if line.startswith(("MiB", "weights", "sum"))]
    assert [len(line.split()) for line in lines] == [3 + 5, 1 + 5, 1 + 5]


PAPER = RLConfig(
    model=PAPER_MODEL,
    dtype="bfloat16",
    num_envs=64,
    sampling_batch=64,
    microbatch_size=2,
    gradient_checkpointing=True,
    env=EnvConfig(kwargs={"verify_iter": 5}),
    eval=EvalConfig(max_new_tokens=512, batch_size=64),
)


def test_plan_at_paper_scale_needs_no_weights_network_or_gpu():
    planned = plan(PAPER, Launch(8, zero_stage=2, offload_optimizer="cpu"))
    assert "not on this machine" in planned.facts.architecture.name_or_path
    assert planned.facts.counts.trained == 8_030_294_016 + 4_720_641
    assert not planned.facts.lengths.counted
    assert 20 * GIB < planned.total("learning") < 60 * GIB
    assert planned.peak < DEVICE_BYTES
    # 131,072 bytes a position: 2 x 32 layers x 8 heads x 128 x 2 bytes.
    positions = planned.facts.lengths.dialogue(5, 512) + 64
    cache = planned.phases["sampling"]["key-value cache"]
    assert cache == pytest.approx(64 * positions * 131_072, rel=0.04)
    adapters = plan(replace(PAPER, lora=LoraSettings(rank=64)), Launch())
    # Rank x (input + output) of q, k, v, o, gate, up and down.
    widths = 2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336)
    assert adapters.facts.counts.trained == 32 * 64 * widths + 4_720_641
    assert adapters.total("learning") < 60 * GIB


def test_engine_is_counted_by_itself_and_beside_the_learner(initial_checkpoint):
    config = RLConfig(model=str(initial_checkpoint), sampler="vllm", engines=["a", "b"], num_envs=6)
    launch = Launch(3)
    facts = find_facts(config)
    sizes = text_sizes(facts.architecture)
    engine = engine_memory(config, 3, facts.architecture, facts.counts, facts.lengths)
    tokens = facts.lengths.dialogue(facts.lengths.verify_iter, config.max_new_tokens)
    assert (engine.servers, engine.dialogues) == (2, 9)  # 3 processes x 6 episodes, over 2
    assert engine.cache == 4 * 9 * tokens * 2 * sizes.keys * sizes.layers
    head = sizes.vocabulary * sizes.hidden * facts.architecture.tie_word_embeddings
    assert engine.weights == 4 * (facts.counts.total + head)
    assert "key-value cache" not in plan(config, launch, facts).phases["sampling"]
    assert sum(line.startswith("Engine") for line in describe(config, launch)) == 2
    large = EngineMemory(1, 1, weights=16 * GIB, cache=8 * GIB)
    alone, shared = describe_engine(large, 60 * GIB, on_cpu=False)
    assert "24.0 GiB in all" in alone
    assert "84.0 GiB, which does not fit in 80.0 GiB" in shared


def test_plan_that_does_not_fit_advises_changes_that_do():
    config = replace(PAPER, num_envs=512, sampling_batch=512, gradient_checkpointing=False)
    config = replace(config, microbatch_size=8, eval=EvalConfig(batch_size=32))
    lines = describe(config, EIGHT)
    text = "\n".join(lines)
    assert "This exceeds 80.0 GiB in sampling, learning" in text
    advised = [line.strip().partition(":")[0] for line in lines if line.startswith("  ")]
    assert "--gradient_checkpointing=true" in advised
    smaller = next(a for a in advised if a.startswith("--sampling_batch="))
    batch = int(smaller.partition("=")[2])
    assert plan(replace(config, sampling_batch=batch), EIGHT).total("sampling") < 80 * GIB
    assert advice(PAPER, plan(PAPER, ZERO[1])) == []


def test_reference_model_is_counted_only_if_kept_apart(initial_checkpoint):
    part = "frozen copy of the start"
    config = RLConfig(model=initial_checkpoint, kl_coef=0.1)
    assert part in plan(config, Launch(on_cpu=True)).phases["sampling"]
    adapters = replace(config, lora=LoraSettings(rank=2))
    assert part not in plan(adapters, Launch(on_cpu=True)).phases["sampling"]
    as_sampled = RLConfig(model=initial_checkpoint, algorithm="grpo", old_logprobs="sampled")
    assert "scoring" not in plan(as_sampled, Launch(on_cpu=True)).phases


def test_loss_takes_little_memory_beside_the_body(monkeypatch):
    vocabulary, tokens = 32_768, 128
    critic = small_critic(vocabulary, "cpu")
    loss, body = loss_against_body(critic, tokens, vocabulary)
    assert loss < body + 24 * LOGITS_AT_ONCE["cpu"]
    monkeypatch.setitem(LOGITS_AT_ONCE, "cpu", 1 << 40)
    at_once, _ = loss_against_body(critic, tokens, vocabulary)
    assert loss - body < (at_once - body) / 2


def test_peak_counted_on_fake_tensors_matches_the_measured_one(monkeypatch):
    monkeypatch.setitem(LOGITS_AT_ONCE, "cuda", 1 << 20)
    monkeypatch.setitem(LOGITS_AT_ONCE, "cpu", 1 << 20)
    architecture = llama(words=8192)
    torch.manual_seed(0)
    critic = ActorCritic(LlamaForCausalLM(architecture).to(torch.bfloat16), 1.0, (8,)).train()
    checkpoint_activations(critic.model)
    measured = loss_against_body(critic, 64, 8192)
    assert counted(architecture, 64) == pytest.approx(measured, rel=0.1)


def test_loss_of_a_large_model_takes_little_memory_beside_its_body():
    loss, body = counted(SHAPES["llama-1b"], 2048)
    assert body < loss < 1.3 * body


SHOWN = EnvConfig(kwargs={"language_only": False, "resolution": 84})


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    """Models that see, by architecture, with their processors."""
    root = tmp_path_factory.mktemp("seeing")
    for kind in VISION:
        save_architecture(kind, root / kind)
    return root


@pytest.mark.parametrize("kind", VISION)
def test_what_images_keep_is_planned_from_above(kind, seeing):
    config = replace(SMALL, model=str(seeing / kind), env=SHOWN)
    model, tokenizer, processor = VISION[kind](0)
    facts = find_facts(config)
    assert facts.images.counted
    rendered = Renderer(tokenizer, processor).first_prompt(make_envs(SHOWN, 1)[0])
    assert facts.lengths.prompt >= len(rendered.token_ids)
    work = ImageWork(
        facts.images,
        4,
        trained=True,
        keys=text_sizes(model.config).keys,
        hidden=text_sizes(model.config).hidden,
    )
    ids = torch.tensor([rendered.token_ids] * 4)
    images = join_images([rendered.processed_image] * 4, [rendered.image_at] * 4, "cpu")
    measured = _saved(model, lambda: image_inputs(model.train(), ids, images))
    assert 0.9 * measured < work.kept(4, checkpointing=False) < 1.5 * measured
    frozen = replace(work, trained=False)
    assert frozen.kept(4, checkpointing=False) < 0.5 * measured


def test_plan_counts_images_in_every_phase_and_says_how_many(seeing):
    config = replace(SMALL, model=str(seeing / "mllama"), env=SHOWN, algorithm="grpo")
    planned = plan(config, Launch())
    for phase in ("sampling", "evaluation", "learning"):
        assert planned.phases[phase][IMAGES] > 0
    frozen = plan(replace(config, freeze=["vision"]), Launch())
    assert frozen.phases["learning"][IMAGES] < planned.phases["learning"][IMAGES]
    (line,) = [line for line in describe(config, Launch()) if line.startswith("Image: ")]
    assert line.endswith("features for the decoder (by its processor)")


def test_images_of_a_model_that_is_not_here_are_full_ones():
    config = replace(SMALL, model="tianzhechu/GP-VL-Init", env=SHOWN)
    facts = find_facts(config)
    # Four tiles of 1,600 patches and a class token, padded to multiples of 8.
    assert (facts.images.positions, facts.images.features) == (4 * 1608, 4 * 1608)
    assert not facts.images.counted
    (line,) = [line for line in describe(config, EIGHT) if line.startswith("Image: ")]
    assert "a full image: its processor is not here" in line
