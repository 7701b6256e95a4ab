"""The plan of a run's memory, held against what real tensors took."""

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
from gym_policy.training.freezing import freeze_unreached
from gym_policy.vision import checkpoint_activations
from rl import memory
from rl.actor_critic import ActorCritic
from rl.bench.memory import Live, counted, loss_against_body, small_critic
from rl.bench.shapes import SHAPES
from rl.config import LoraSettings, PPOConfig, RLConfig
from rl.devices import Launch, read_launch
from rl.learner import make_optimizer
from rl.memory import GIB, Precision
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


def built(architecture, config, launch):
    """The ActorCritic of a run, as training makes it, but for DeepSpeed, which only casts it."""
    precision = memory.precision_of(config, launch)
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
    """Forward arguments: the last `replies` tokens of each sequence are scored."""
    ids = torch.arange(batch * length).reshape(batch, length) % words
    rows = torch.arange(batch).unsqueeze(1) * length
    at = (rows + torch.arange(length - replies, length) - 1).flatten()
    return {"input_ids": ids, "predict_at": at, "targets": at % words, "value_at": rows.flatten()}


def activations(architecture, config, launch):
    counts = memory.count_parameters(architecture, config)
    precision = memory.precision_of(config, launch)
    dropout = config.lora.dropout > 0
    return memory.Activations(text_sizes(architecture), counts, precision, dropout)


def autocast(config, launch):
    on = memory.precision_of(config, launch).autocast
    return torch.autocast("cpu", torch.bfloat16, enabled=on)


def kept_for_backward(critic, arguments):
    """(bytes that autograd keeps, without parameters)."""
    own = {p.untyped_storage()._cdata for p in critic.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # alive, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        critic(**arguments)
    return sum(storage.nbytes() for storage in kept.values())


CASES = [(name, kind) for name in ("llama", "mllama") for kind in KINDS]


@pytest.mark.parametrize(("name", "kind"), [*CASES, ("wide", "float32"), ("narrow", "bfloat16")])
def test_what_is_planned_to_be_kept_is_what_autograd_keeps(name, kind):
    architecture, (config, launch) = ARCHITECTURES[name], KINDS[kind]
    critic = built(architecture, config, launch).train()
    work = activations(architecture, config, launch)
    with autocast(config, launch):
        measured = kept_for_backward(critic, inputs(4, 96, 1, work.sizes.vocabulary))
    assert work.kept(4 * 96, checkpointing=False) == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_what_an_adapter_keeps_depends_on_its_targets_and_dropout(dropout):
    lora = LoraSettings(rank=4, dropout=dropout, targets=["q_proj", "v_proj"])
    config = replace(HALF, lora=lora)
    critic = built(ARCHITECTURES["llama"], config, Launch()).train()
    work = activations(ARCHITECTURES["llama"], config, Launch())
    measured = kept_for_backward(critic, inputs(4, 96, 1, work.sizes.vocabulary))
    assert work.kept(4 * 96, checkpointing=False) == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("llama", "bfloat16"), ("llama", "autocast"), ("llama", "adapter"), ("mllama", "float32")],
)
def test_learning_and_scoring_peak_where_planned(name, kind, checkpointing):
    architecture, (config, launch) = ARCHITECTURES[name], KINDS[kind]
    config = replace(config, gradient_checkpointing=checkpointing)
    critic = built(architecture, config, launch)
    for parameter in critic.parameters():  # gradients are counted among the states
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
def test_sampling_peaks_where_planned(name, batch, prompt, reply):
    torch.manual_seed(0)
    model = auto_class(ARCHITECTURES[name]).from_config(ARCHITECTURES[name]).eval()
    work = activations(ARCHITECTURES[name], SMALL, Launch())
    renderer = Renderer(tiny_tokenizer())
    text = "x" * (prompt - len(renderer.render([Message("user", "")]).token_ids))
    renderer.stop_ids = (work.sizes.vocabulary,)  # no token: replies are as long as they may be
    policy = ModelPolicy(model, renderer, max_new_tokens=reply, batch_size=batch)
    with Live(model) as live:
        # No two are equal, which would be computed once.
        texts = [chr(ord("A") + i) + text[1:] for i in range(batch)]
        policy.act([Dialogue([Message("user", t)], key=(i,)) for i, t in enumerate(texts)])
    parts = work.sampling(batch, prompt, reply)
    planned = parts["key-value cache"] + max(parts[memory.LAYER], parts[memory.LOGITS])
    # A bound from above: Mllama's cache allocates nothing ahead, and its layers are few here.
    assert 0.95 * live.peak < planned < 1.5 * live.peak


def state_bytes(critic, optimizer):
    """Bytes by part of real tensors, after a step."""
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
def test_states_are_those_of_a_real_step(name, kind, algorithm):
    architecture, (config, launch) = ARCHITECTURES[name], KINDS[kind]
    config = replace(config, algorithm=algorithm)
    critic = built(architecture, config, launch)
    critic.value_head.requires_grad_(algorithm == "ppo")
    optimizer = make_optimizer(critic, config)
    with autocast(config, launch):
        scores = critic(**inputs(1, 8, 2, 262))
    loss = scores.logprobs.sum() + (scores.values.sum() if algorithm == "ppo" else 0.0)
    loss.backward()
    optimizer.step()
    counts = memory.count_parameters(architecture, config)
    precision = memory.precision_of(config, launch)
    assert memory.model_states(counts, precision, launch) == state_bytes(critic, optimizer)
    trained = [p.numel() for p in critic.parameters() if p.requires_grad]
    assert (counts.trained, counts.total) == (
        sum(trained),
        sum(p.numel() for p in critic.parameters()),
    )


def test_text_reaches_what_training_does_not_freeze():
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
def test_own_formulas_of_zero_are_deepspeeds(launch, monkeypatch):
    counts = memory.Counts(
        base=10_670_220_835,
        base_trained=8_030_294_016,
        added=4_720_641,
        added_trained=4_720_641,
        matrices=0,
        largest=525_369_344,
    )
    theirs = memory.model_states(counts, Precision(2, 2, 2, 2), launch)
    monkeypatch.setitem(sys.modules, "deepspeed.runtime.zero.stage3", None)  # not installed
    mine = memory.model_states(counts, Precision(2, 2, 2, 2), launch)
    assert mine == pytest.approx(theirs, abs=16)
    # What DeepSpeed's own function says where nothing is frozen, buffers aside.
    monkeypatch.undo()
    whole = replace(counts, base=counts.base_trained)
    states = memory.model_states(whole, Precision(2, 2, 2, 2), launch)
    del states["DeepSpeed's buffers"]
    estimate = memory._deepspeed_estimate(launch, whole.trained, whole.largest)
    assert sum(states.values()) == pytest.approx(estimate, abs=16)
    frozen = counts.total - whole.total
    share = {2: frozen, 3: frozen / launch.processes}[launch.zero_stage]
    share *= launch.offload_parameters == "none"
    difference = theirs["weights"] - states["weights"]
    assert difference == pytest.approx(2 * share, abs=16)


def test_zero_by_hand():
    """8 processes, 800 parameters trained, 200 frozen."""
    counts = memory.Counts(1000, 800, 0, 0, 0, largest=100)
    half = Precision(2, 2, 2, 2)
    launch = Launch(8, zero_stage=2, bucket=0)
    assert memory.model_states(counts, half, launch) == {
        "weights": 2000,
        "modules gathered in turn": 0,
        "gradients": 600,
        "optimizer states": 1200,
        "DeepSpeed's buffers": 0,
    }
    parts = memory.model_states(counts, half, replace(launch, zero_stage=3))
    # As measured with two processes: a buffer for gradients in 16 bits stays.
    assert list(parts.values()) == [250, 400, 400, 1200, 200]
    parts = memory.model_states(counts, half, replace(launch, zero_stage=1))
    assert list(parts.values()) == [2000, 0, 2000, 1200, 0]
    offload = replace(launch, offload_optimizer="cpu")
    assert list(memory.model_states(counts, half, offload).values()) == [2000, 0, 0, 0, 200]
    host = memory.host_memory(counts, half, offload)
    assert host == {
        "weights, while they are loaded": 8 * 2000,
        "optimizer states": 12800,
        "DeepSpeed's buffers": 6400,
    }
    assert (
        memory.host_memory(counts, half, replace(offload, machines=2))["optimizer states"] == 6400
    )


def plan_file(tmp_path, **settings):
    file = tmp_path / "accelerate.yaml"
    file.write_text(yaml.safe_dump(settings))
    return str(file)


def test_a_launch_is_read_from_an_accelerate_configuration(tmp_path, monkeypatch):
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
    own = tmp_path / "ds.json"
    zero = {"stage": 2, "offload_optimizer": {"device": "cpu"}, "reduce_bucket_size": 5e7}
    own.write_text(json.dumps({"zero_optimization": zero}))
    keys = {"deepspeed_config_file": str(own)}
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
def test_a_configuration_that_cannot_be_planned_is_named(tmp_path, text, word):
    file = tmp_path / "accelerate.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=re.escape(word)) as caught:
        read_launch(str(file))
    assert "\n" not in str(caught.value)


@pytest.fixture
def tiny_start(tmp_path):
    tokenizer = tiny_tokenizer()
    model = tiny_llama(tokenizer)
    model.save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    return str(tmp_path / "start")


def test_no_dialogue_is_longer_than_planned(tiny_start):
    config = RLConfig(model=tiny_start, env=EnvConfig(kwargs={"verify_iter": 3}), max_new_tokens=90)
    lengths = memory.measure_dialogue(config)
    assert lengths.counted
    assert lengths.verify_iter == 3
    renderer = Renderer(tiny_tokenizer())
    episodes = rollout(
        make_envs(config.env, 4), RandomPolicy(), [Task(100 + i, (i,)) for i in range(20)]
    )
    longest = 0
    for episode in episodes:
        rendered = renderer.render(episode.dialogues[0])
        said = sum(turn < 0 for turn in rendered.turn)
        longest = max(longest, said + 3 * 90)
    assert 0.9 * lengths.dialogue(3, 90) < longest <= 1.02 * lengths.dialogue(3, 90)


def test_a_tiny_plan_is_printed(tiny_start, monkeypatch, capsys):
    monkeypatch.delenv("ACCELERATE_CONFIG", raising=False)
    config = RLConfig(model=tiny_start, num_envs=8, max_new_tokens=24, microbatch_size=4)
    memory.print_plan(config)
    printed = capsys.readouterr().out
    head, _, plan = printed.partition("\nLaunch: ")
    assert yaml.safe_load(head)["max_new_tokens"] == 24
    assert plan.startswith("1 x ")
    assert "by its tokenizer" in plan
    lines = [line for line in plan.splitlines() if line.startswith(("MiB", "weights", "sum"))]
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


def test_the_paper_scale_is_planned_without_weights_network_or_gpu():
    planned = memory.plan(PAPER, Launch(8, zero_stage=2, offload_optimizer="cpu"))
    assert "not on this machine" in planned.facts.architecture.name_or_path
    assert planned.facts.counts.trained == 8_030_294_016 + 4_720_641
    assert not planned.facts.lengths.counted
    assert 20 * GIB < planned.total("learning") < 60 * GIB
    assert planned.peak < memory.DEVICE_BYTES
    # 131,072 bytes a position: 2 x 32 layers x 8 heads x 128 x 2 bytes.
    positions = planned.facts.lengths.dialogue(5, 512) + 64
    cache = planned.phases["sampling"]["key-value cache"]
    assert cache == pytest.approx(64 * positions * 131_072, rel=0.04)
    adapters = memory.plan(replace(PAPER, lora=LoraSettings(rank=64)), Launch())
    # Rank x (input + output) of q, k, v, o, gate, up and down.
    widths = 2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336)
    assert adapters.facts.counts.trained == 32 * 64 * widths + 4_720_641
    assert adapters.total("learning") < 60 * GIB


def test_a_plan_that_does_not_fit_says_what_would():
    config = replace(PAPER, num_envs=512, sampling_batch=512, gradient_checkpointing=False)
    config = replace(config, microbatch_size=8, eval=EvalConfig(batch_size=32))
    lines = memory.describe(config, EIGHT)
    text = "\n".join(lines)
    assert "This exceeds 80.0 GiB in sampling, learning" in text
    advised = [line.strip().partition(":")[0] for line in lines if line.startswith("  ")]
    assert "--gradient_checkpointing=true" in advised
    smaller = next(a for a in advised if a.startswith("--sampling_batch="))
    batch = int(smaller.partition("=")[2])
    assert memory.plan(replace(config, sampling_batch=batch), EIGHT).total("sampling") < 80 * GIB
    assert memory.advice(PAPER, memory.plan(PAPER, ZERO[1])) == []


def test_a_frozen_start_is_counted_only_where_there_is_one(tiny_start):
    part = "frozen copy of the start"
    config = RLConfig(model=tiny_start, kl_coef=0.1)
    assert part in memory.plan(config, Launch(on_cpu=True)).phases["sampling"]
    adapters = replace(config, lora=LoraSettings(rank=2))
    assert part not in memory.plan(adapters, Launch(on_cpu=True)).phases["sampling"]
    as_sampled = RLConfig(model=tiny_start, algorithm="grpo", old_logprobs="sampled")
    assert "scoring" not in memory.plan(as_sampled, Launch(on_cpu=True)).phases


def test_the_loss_takes_little_beside_the_body(monkeypatch):
    vocabulary, tokens = 32_768, 128
    critic = small_critic(vocabulary, "cpu")
    loss, body = loss_against_body(critic, tokens, vocabulary)
    assert loss < body + 24 * LOGITS_AT_ONCE["cpu"]
    monkeypatch.setitem(LOGITS_AT_ONCE, "cpu", 1 << 40)
    at_once, _ = loss_against_body(critic, tokens, vocabulary)
    assert loss - body < (at_once - body) / 2


def test_what_is_counted_without_memory_is_what_is_measured(monkeypatch):
    monkeypatch.setitem(LOGITS_AT_ONCE, "cuda", 1 << 20)
    monkeypatch.setitem(LOGITS_AT_ONCE, "cpu", 1 << 20)
    architecture = llama(words=8192)
    torch.manual_seed(0)
    critic = ActorCritic(LlamaForCausalLM(architecture).to(torch.bfloat16), 1.0, (8,)).train()
    checkpoint_activations(critic.model)
    measured = loss_against_body(critic, 64, 8192)
    assert counted(architecture, 64) == pytest.approx(measured, rel=0.1)


def test_the_loss_of_a_large_model_takes_little_beside_its_body():
    loss, body = counted(SHAPES["llama-1b"], 2048)
    assert body < loss < 1.3 * body
