"""The wording of a file reaches every environment of an evaluation, and a run's own is followed."""

import json

import gymnasium
import pytest
import yaml

from evaluation.evaluate import CommandConfig, main_with_run_settings
from evaluation.play import EvalConfig, play_suites
from evaluation.suites import SuiteConfig, load_task
from gym_cards.env import GeneralPointsEnv
from gym_cards.prompts import OWN
from gym_cards.verifier import FEEDBACK
from gym_command.command import parse_config
from gym_dialogue import InputError, OraclePolicy, Policy, Reply
from gym_dialogue.make import EnvConfig
from sft.tiny import build_model, build_tokenizer

ILLEGAL = "Illegal, says the file."


@pytest.fixture
def wording(tmp_path):
    file = tmp_path / "wording.json"
    prompt = "FILE <<target>> <<cards>> <<J>>/<<Q>>/<<K>>"
    feedback = {"ILLEGAL_FORMULA": ILLEGAL}
    file.write_text(json.dumps(OWN.to_json() | {"prompt": prompt, "feedback": feedback}))
    return str(file)


class _Mute(Policy):
    """Remembers what it was asked, and says nothing."""

    def __init__(self):
        self.prompts = []

    def act(self, dialogues):
        self.prompts += [dialogue.messages[0].text for dialogue in dialogues]
        return [Reply("") for _ in dialogues]


def test_every_suite_is_played_in_the_wording_of_the_file(wording):
    task = load_task("gp_l")
    policy, config = _Mute(), EvalConfig(episodes=4, verify_iter=2)
    records = play_suites(
        {"greedy": policy, "sampled": OraclePolicy()},
        task.suites,
        config,
        show_progress=False,
        prompt_file=wording,
    )
    rules = {prompt.rpartition(" ")[2] for prompt in policy.prompts}
    assert rules == {"10/10/10", "11/12/13", "5/5/5", "7/7/7", "12/12/12"}
    assert all(prompt.startswith("FILE 24 ") for prompt in policy.prompts)
    for suite in task.suites:
        assert all(r.turns[0].feedback == ILLEGAL for r in records["greedy"][suite.name])
        assert all(r.is_success for r in records["sampled"][suite.name])


class _Plain(GeneralPointsEnv):
    """An environment that has only its own wording."""

    def __init__(self, verify_iter: int):
        super().__init__(verify_iter=verify_iter)


def test_an_environment_without_wordings_is_named(wording, monkeypatch):
    monkeypatch.setattr(gymnasium.envs.registration, "registry", {})
    gymnasium.register("Plain-v0", _Plain)
    suites, config = [SuiteConfig("a", EnvConfig("Plain-v0"))], EvalConfig(episodes=1)
    play_suites({"a": _Mute()}, suites, config, show_progress=False)
    with pytest.raises(InputError, match="Plain-v0: takes no argument 'prompt_file'"):
        play_suites({"a": _Mute()}, suites, config, show_progress=False, prompt_file=wording)


@pytest.fixture
def run(tmp_path, wording):
    """A run with its own wording and a checkpoint that knows nothing."""
    tokenizer = build_tokenizer(["Cards: 1"])
    model = build_model(len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id, seed=0)
    directory = tmp_path / "run"
    for part in (model, tokenizer):
        part.save_pretrained(directory / "checkpoints" / "update-000000")
    short = {"episodes": 2, "decoding": ["greedy"], "max_new_tokens": 2, "verify_iter": 2}
    short |= {"sampling": "generation_config", "each_once": False, "top_p": 1.0}
    settings = {"task": "gp_l", "prompt_file": wording, "eval": short}
    (directory / "config.yaml").write_text(yaml.safe_dump(settings))
    return str(directory)


def test_a_suite_with_nothing_to_play_in_a_run(run, tmp_path, monkeypatch, capsys):
    file, out = tmp_path / "few.yaml", tmp_path / "out"
    gone = {"name": "gone", "optional": True, "env": {"kwargs": {"target_points": 989}}}
    file.write_text(yaml.safe_dump({"task": "few", "suites": [gone, {"name": "id"}]}))
    argv = [f'--checkpoints=["{run}"]', f"--run_dir={out}", f"--task={file}", "--prompt_file=null"]
    monkeypatch.setattr("sys.argv", ["evaluate", *argv])
    main_with_run_settings(parse_config(CommandConfig, argv))
    assert capsys.readouterr().out.count("suite gone: left out: no hand of 4 cards") == 1
    turns = [json.loads(line) for line in (out / "turns.jsonl").read_text().splitlines()]
    assert {turn["suite"] for turn in turns} == {"id"}


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], ILLEGAL),
        (["--prompt_file=null"], FEEDBACK["ILLEGAL_FORMULA"]),
        (["--prompt_file=OTHER"], "Other."),
    ],
)
def test_the_wording_of_the_run_is_followed(run, flags, sentence, tmp_path, monkeypatch):
    other = tmp_path / "other.json"
    other.write_text(json.dumps(OWN.to_json() | {"feedback": {"ILLEGAL_FORMULA": "Other."}}))
    flags = [flag.replace("OTHER", str(other)) for flag in flags]
    out = tmp_path / "out"
    argv = [f'--checkpoints=["{run}"]', f"--run_dir={out}", *flags]
    monkeypatch.setattr("sys.argv", ["evaluate", *argv])
    main_with_run_settings(parse_config(CommandConfig, argv))
    turns = [json.loads(line) for line in (out / "turns.jsonl").read_text().splitlines()]
    assert {turn["feedback"] for turn in turns} == {sentence}
    page = (out / "report.html").read_text()  # played again in the same wording
    assert "otherwise than recorded (" not in page
    assert ("FILE 24" in page) == (sentence == ILLEGAL)
