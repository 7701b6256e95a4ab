"""A run on a model whose template takes arguments, with an adapter on its head: trained, resumed,
evaluated as it was trained, from a configuration of before these settings.
"""

import json
import shutil

import pytest
import torch
import yaml

from evaluation import evaluate
from gym_command.command import parse_config, run_command
from gym_dialogue import InputError
from gym_policy import load_model
from gym_policy.models.load import load_renderer
from rl.config import RLConfig
from rl.testing import SMALL, tiny_llama, tiny_tokenizer
from rl.train import train

THINKS = "{% if enable_thinking is defined and not enable_thinking %}{{ 'quick' }}{% endif %}"


@pytest.fixture(scope="module")
def thinking(tmp_path_factory):
    """A checkpoint whose template says "quick" where thinking is switched off."""
    directory = tmp_path_factory.mktemp("thinking")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = THINKS + tokenizer.chat_template
    model = tiny_llama(tokenizer)
    model.config.tie_word_embeddings = False
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def _flags(start, run, *more):
    to = [f"--model={start}", f"--run_dir={run}", "--algorithm=grpo"]
    return [*to, *SMALL, "--trackers=[]", "--eval_every=0", "--eval_ends=false", *more]


def test_template_arguments_are_those_of_the_run_in_its_evaluation(thinking, tmp_path, monkeypatch):
    """The adapter on the head is evaluated, and resumed from."""
    run = tmp_path / "run"
    flags = _flags(
        thinking,
        run,
        "--chat_template_kwargs.enable_thinking=false",
        "--lora.rank=2",
        "--lora.targets=[lm_head]",
    )
    train(parse_config(RLConfig, flags))
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert settings["chat_template_kwargs"] == {"enable_thinking": False}
    prompts = []

    def load(path, kwargs=None, *more):
        renderer = load_renderer(path, kwargs, *more)
        render = renderer.render

        def seen(dialogue):
            rendered = render(dialogue)
            prompts.append(renderer.tokenizer.decode(rendered.token_ids))
            return rendered

        renderer.render = seen
        return renderer

    monkeypatch.setattr(evaluate, "load_renderer", load)
    flags = [f"--checkpoints=['{run}']", f"--run_dir={tmp_path / 'eval'}", "--eval.episodes=2"]
    monkeypatch.setattr("sys.argv", ["evaluate", *flags])
    run_command(evaluate.main_with_run_settings, evaluate.CommandConfig)
    assert prompts
    assert all(prompt.startswith("quick") for prompt in prompts)
    last = run / "checkpoints" / "update-000002"
    trained = load_model(str(last)).state_dict()
    shutil.rmtree(last)
    again = [f"--config={run}/config.yaml", "--resume"]
    with pytest.raises(InputError, match=r"chat_template_kwargs\.enable_thinking=True"):
        train(parse_config(RLConfig, [*again, "--chat_template_kwargs.enable_thinking=true"]))
    train(parse_config(RLConfig, again))
    repeated = load_model(str(last)).state_dict()
    assert all(torch.equal(trained[name], repeated[name]) for name in trained)


def test_a_run_of_before_these_settings_goes_on(thinking, tmp_path):
    """Its configuration does not know them."""
    run = tmp_path / "run"
    config = parse_config(RLConfig, _flags(thinking, run))
    config.save_every, config.num_updates = 1, 1
    train(config)
    file = run / "config.yaml"
    settings = yaml.safe_load(file.read_text())
    for name in ("chat_template_kwargs", "trust_remote_code"):
        del settings[name]
    file.write_text(yaml.safe_dump(settings))
    train(parse_config(RLConfig, [f"--config={file}", "--resume"]))
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1
    assert json.loads((run / "metrics.jsonl").read_text())["update"] == 1
