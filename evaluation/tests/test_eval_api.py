"""Evaluating a model behind an API: against a server on this machine that can misbehave, and
against the one that transformers ships, stopped in the middle and started again.
"""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml

from evaluation import api, evaluate
from gym_command.command import parse_config, run_command
from gym_policy.api.testing import HANG, completion, error, running_stub
from gym_policy.testing import tiny_llama, tiny_tokenizer

ROOT = Path(__file__).parents[2]
SEES = next((ROOT / "assets" / "start").glob("gp_vl-*"))
KEY = "sk-v3ry/s3cret+0123=="
SHOWS_KEY = re.compile(r"sk-v3ry|s3cret|0123=|0123%")
TASK = """
task: some
env_kwargs: {split: train}
suites:
  - {name: id, title: in words}
  - {name: rule, title: other rule, shift: rule, env: {kwargs: {face_rule: rank}}}
"""
SEEN = """  - name: seen
    title: in pictures
    env: {kwargs: {language_only: false, resolution: 84, face_cards_color: black}}
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command: its code, stdout and stderr."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    file = tmp_path / "task.yaml"
    file.write_text(TASK)

    def run(url, *flags, model="some-model", name="run"):
        run_dir = tmp_path / name
        argv = ["api", f"--base_url={url}", f"--model={model}", f"--run_dir={run_dir}"]
        argv += [f"--task={file}", "--eval.episodes=4", "--eval.verify_iter=2", *flags]
        monkeypatch.setattr(sys, "argv", argv)
        code = 0
        try:
            run_command(api.main, api.ApiConfig)
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        files = [f for f in run_dir.rglob("*") if f.is_file()]
        shown = printed.out + printed.err + "".join(f.read_text(errors="replace") for f in files)
        assert not SHOWS_KEY.search(shown)
        return code, printed.out, printed.err

    return run


def _refused(result):
    """The one line that a run ended with."""
    code, _, err = result
    assert code == 2, err
    assert "Traceback" not in err
    (line,) = (line for line in err.splitlines() if line.startswith("error: "))
    return line


def _journal(run_dir):
    file = run_dir / "replies.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def _wait(until, seconds=300):
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_evaluation_that_was_killed_pays_for_nothing_twice(run, tmp_path):
    with running_stub() as stub:
        assert run(stub.url, name="whole")[0] == 0
        asked = {json.dumps(request) for request in stub.requests}
        assert len(asked) == 16
        stub.requests.clear()
        stub.bad_days = [None] * 6 + [HANG]
        command = [sys.executable, "-m", "evaluation.api", f"--base_url={stub.url}"]
        command += ["--model=some-model", f"--task={tmp_path}/task.yaml", "--eval.episodes=4"]
        command += ["--eval.verify_iter=2", f"--run_dir={tmp_path}/run", "--concurrency=1"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            _wait(lambda: _journal(tmp_path / "run") >= 6 or process.poll() is not None)
            process.kill()
        kept = _journal(tmp_path / "run")
        assert 6 <= kept < 16
        paid = {json.dumps(request) for request in stub.requests[:kept]}
        stub.requests.clear()
        stub.bad_days = []
        code, out, err = run(stub.url)
        assert code == 0, err
        again = {json.dumps(request) for request in stub.requests}
        assert len(stub.requests) == 16 - kept
        assert not again & paid
        assert again | paid == asked
    for name in ("table.txt", "summary.json", "turns.jsonl"):
        assert (tmp_path / "run" / name).read_text() == (tmp_path / "whole" / name).read_text()
    for name in ("success.png", "report.html"):
        assert (tmp_path / "run" / name).stat().st_size > 5000
    usage = json.loads((tmp_path / "run" / "usage.json").read_text())
    assert usage == {
        "requests": 16 - kept,
        "retries": 0,
        "arrived": _tally(16 - kept),
        "from_journal": _tally(kept),
        "finish_reasons": {"stop": 16},
    }
    assert f"{16 - kept} requests (0 retries) brought {16 - kept} replies" in out


def test_an_optional_suite_with_nothing_to_play_is_not_asked_for(run, tmp_path):
    file = tmp_path / "few.yaml"
    gone = "  - {name: gone, optional: true, env: {kwargs: {target_points: 989}}}\n"
    file.write_text(TASK + gone)
    with running_stub() as stub:
        code, out, err = run(stub.url, f"--task={file}")
        assert code == 0, err
        assert len(stub.requests) == 16
    assert "suite gone: left out: no hand of 4 cards that makes 989" in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert list(summary["suites"]) == ["id", "rule"]


def _tally(replies):
    tokens = {"prompt_tokens": 7 * replies, "completion_tokens": 3 * replies}
    return {"replies": replies, **tokens, "uncounted": 0}


def test_a_failed_evaluation_goes_on_elsewhere_but_not_as_another(run, tmp_path):
    with running_stub() as stub:
        escaped = KEY.replace("/", "\\/")
        body = f'{{"error": {{"message": "Incorrect API key: {escaped}"}}}}'
        # A reply that repeats the key is kept without it.
        echo = (200, completion(f"{KEY} or {urllib.parse.quote(KEY, safe='')}"))
        stub.bad_days = [(503, error("x" * 190 + KEY)), *[None] * 4, echo, (401, body)]
        line = _refused(run(stub.url, "--concurrency=1"))
        assert "answered 401 (Incorrect API key: [OPENAI_API_KEY]): check the key" in line
        assert _journal(tmp_path / "run") == 5
        line = _refused(run(stub.url, "--eval.max_new_tokens=9", "--extra_body.top_p=0.5"))
        assert "holds replies under another extra_body, eval.max_new_tokens" in line
        assert "model" in _refused(run(stub.url, model="another"))
        assert len(stub.requests) == 7
    with running_stub() as stub:
        code, out, err = run(stub.url, "--concurrency=3", "--tries=2")
        assert code == 0, err
        assert len(stub.requests) == 11
        assert "from the journal: 5 replies (35 prompt and 15 completion tokens)" in out
        assert run(stub.url, "--eval.episodes=5")[0] == 0
        assert len(stub.requests) == 15


def test_top_p_is_asked_for(run):
    with running_stub() as stub:
        assert run(stub.url, "--eval.decoding=[sampled]", "--eval.top_p=0.9")[0] == 0
        assert {request["top_p"] for request in stub.requests} == {0.9}


def test_older_run_without_a_setting_goes_on(run, tmp_path):
    with running_stub() as stub:
        assert run(stub.url)[0] == 0
        file = tmp_path / "run" / "config.yaml"
        settings = yaml.safe_load(file.read_text())
        del settings["env"], settings["eval"]["top_p"], settings["eval"]["sampling"]
        file.write_text(yaml.safe_dump(settings))
        before = len(stub.requests)
        code, _, err = run(stub.url)
        assert code == 0, err
        assert len(stub.requests) == before
        assert "top_p" not in stub.requests[0]


def test_replies_that_were_cut_are_counted(run, tmp_path):
    with running_stub() as stub:
        stub.always = (200, completion("{", "length"))
        code, out, err = run(stub.url, "--eval.decoding=[greedy, sampled]")
        assert code == 0, err
        assert "32 replies were cut at the token limit" in out
        assert [request.get("seed") is None for request in stub.requests].count(True) == 16
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    actual = summary["checkpoints"]["some-model"]
    assert actual["greedy"]["id"]["outcomes"] == {"ILLEGAL_FORMULA": 8}
    assert actual["greedy"]["id"]["replies"]["cut"] == 8
    assert "8 / 8 / 0 of 8" in out
    for decoding in ("greedy", "sampled"):
        hint = f"hint: some-model, {decoding}: 100 % of the replies were cut at the token limit"
        assert f"{hint}: raise max_new_tokens" in out


def test_a_model_that_leaves_its_answer_in_its_thinking_is_found_out(run, tmp_path):
    with running_stub() as stub:
        stub.always = (200, completion(None, reasoning_content='{"formula": "1"}'))
        code, out, err = run(stub.url)
        assert code == 0, err
    assert "8 / 0 / 8 of 8" in out
    assert "or have left its answer in reasoning_content" in out


def test_a_dialogue_beyond_the_context_does_not_end_the_run(run, tmp_path):
    told = "This model's maximum context length is 64 tokens. However, you requested 99 tokens."
    with running_stub() as stub:
        stub.bad_days = [None] * 5 + [(400, error(told))] * 4
        code, out, err = run(stub.url, "--concurrency=1")
        assert code == 0, err
        assert len(stub.requests) == 16
        assert run(stub.url)[0] == 0
        assert len(stub.requests) == 16
    assert "4 would not fit in the model's context" in out
    assert "hint: some-model, greedy: 25 % of the replies would not fit in the model's con" in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    actual = summary["checkpoints"]["some-model"]["greedy"]
    assert sum(actual[suite]["replies"]["beyond_context"] for suite in actual) == 4


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model="], "lists some-model, another"),
        (["--base_url=host"], "base_url='host': must be the root of an OpenAI-compatible API"),
        (["--concurrency=0"], "concurrency=0: must be from 1 to 1000"),
        (["--concurrency=many"], "concurrency"),
        (["--task=chess"], "task 'chess'"),
        (["--eval.episodes=0"], "episodes=0"),
        (["--eval.decoding=[sampled]", "--eval.temperature=0"], "is greedy decoding"),
        (["--eval.sampling=generation_config"], "an API does not tell how a checkpoint is sampled"),
        (["--env.kwargs.colour=red"], "takes no argument 'colour'"),
        (["--extra_body=[1]"], "extra_body"),
        (["--extra_body={n: 2}"], "extra_body: n: is set by an option of its own"),
        (["--leave_out=[top_p]"], "leave_out"),
        (["--key_env=" + KEY], "key_env: must be the name of an environment variable"),
        (["--prompt_file=/nowhere.json"], "/nowhere.json"),
    ],
)
def test_bad_settings_are_one_line_and_cost_nothing(flags, words, run):
    with running_stub() as stub:
        assert words in _refused(run(stub.url, *flags))
        assert not stub.requests


def test_the_directory_of_another_run_is_left_alone(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("model: tiny\n")
    with running_stub() as stub:
        assert "already holds a run" in _refused(run(stub.url))
    assert (tmp_path / "run" / "config.yaml").read_text() == "model: tiny\n"


class _Serve:
    """`transformers serve`, which loads the model that a request names."""

    def __init__(self, port, log):
        self.url, self.log = f"http://127.0.0.1:{port}/v1", log
        code = "import sys; from transformers.cli.transformers import main; sys.exit(main())"
        command = [sys.executable, "-c", code, "serve", "--host=127.0.0.1", f"--port={port}"]
        # In the precision that an evaluation has by default, whatever the weights are kept in.
        command += ["--device=cpu", "--dtype=float32"]
        place = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(log.parent), "OMP_NUM_THREADS": "1"}
        with open(log, "w") as file:
            self.process = subprocess.Popen(
                command, env=os.environ | place, stdout=file, stderr=subprocess.STDOUT
            )

    def is_up(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(self.url.replace("/v1", "/health"), timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def answered(self):
        return self.log.read_text().count('"POST /v1/chat/completions HTTP/1.1" 200')

    def kill(self):
        self.process.kill()
        self.process.wait()


@contextmanager
def _serving(port, log):
    server = _Serve(port, log)
    try:
        _wait(server.is_up)
        yield server
    finally:
        server.kill()


def _a_llama(directory):
    """A random one whose replies are text that is read as the tokens that it was written in: of
    the byte tokens it says printable ASCII only.
    """
    tokenizer = tiny_tokenizer()
    model = tiny_llama(tokenizer)
    with torch.no_grad():
        says = [
            i for token, i in tokenizer.get_vocab().items() if len(token) == 1 and token < "\x7f"
        ]
        silent = torch.ones(len(tokenizer), dtype=torch.bool)
        silent[says] = False
        model.lm_head.weight[silent] = 0
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def test_the_server_of_transformers_stopped_and_started_gives_the_table_of_a_local_evaluation(
    run, tmp_path, monkeypatch
):
    monkeypatch.delenv("OPENAI_API_KEY")
    task, limit = tmp_path / "task.yaml", "--eval.max_new_tokens=48"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    llama = _a_llama(tmp_path / "llama")

    def run_locally(model, name):
        flags = [f"--task={task}", f"--run_dir={tmp_path / name}", limit, "--device=cpu"]
        flags += ["--eval.decoding=[greedy]", "--eval.episodes=4", "--eval.verify_iter=2"]
        flags.append(f"--checkpoints={json.dumps([str(model)])}")
        evaluate.main(parse_config(evaluate.CommandConfig, flags))

    def equals(name, local):
        rows = [_rows(tmp_path / n / "turns.jsonl") for n in (name, local)]
        assert rows[0] == rows[1]
        for file in ("summary.json", "table.txt"):
            assert (tmp_path / name / file).read_text() == (tmp_path / local / file).read_text()
        return len(rows[0])

    task.write_text(TASK + SEEN)
    run_locally(SEES, "local")
    with _serving(port, tmp_path / "first.log") as server:

        def stop_after(replies):
            _wait(lambda: _journal(tmp_path / "run") >= replies)
            server.kill()

        thread = threading.Thread(target=stop_after, args=(7,))
        thread.start()
        line = _refused(run(server.url, limit, "--tries=2", "--concurrency=2", model=SEES))
        thread.join()
    assert f"cannot reach {server.url}" in line
    assert "after 2 tries; the replies so far are kept, and running again goes on" in line
    kept = _journal(tmp_path / "run")
    assert kept >= 7

    with _serving(port, tmp_path / "second.log") as server:
        code, out, err = run(server.url, limit, model=SEES)
        assert code == 0, err
        turns = equals("run", "local")
        assert server.answered() == turns - kept > 0
        assert f"from the journal: {kept} replies" in out
        outcomes = {row["outcome"] for row in _rows(tmp_path / "run" / "turns.jsonl")}
        assert "CORRECT_SOLUTION" in outcomes  # it plays: the table is not one of zeros
        # A model of text alone takes another way through the server.
        task.write_text(TASK)
        code, out, err = run(server.url, limit, model=llama, name="run2")
        assert code == 0, err
        run_locally(llama, "local2")
        assert equals("run2", "local2") == 16


def _rows(file):
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "tokens"} for row in rows]  # counted here only
