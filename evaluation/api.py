"""Evaluates a model behind an OpenAI-compatible API: the command behind scripts/eval_api.sh."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from evaluation import report
from evaluation.decodings import GREEDY, own_temperature
from evaluation.html import leave_report
from evaluation.play import EvalConfig, check_eval_config, play_suites
from evaluation.suites import EnvOptions, load_task, playable, with_options
from gym_command.command import run_command
from gym_command.files import write_atomically
from gym_command.run_dir import RunDir
from gym_dialogue import InputError, Policy
from gym_dialogue.make import make_envs, with_prompt_file
from gym_policy.api.endpoint import Endpoint
from gym_policy.api.journal import Journal
from gym_policy.api.policy import ApiPolicy, MaxTokensField, Setting

JOURNAL_FILE = "replies.jsonl"


@dataclass
class ApiConfig:
    """Evaluate a model behind an OpenAI-compatible API in and out of distribution."""

    base_url: str = ""
    """The root of the API, such as https://api.openai.com/v1 or http://localhost:8000/v1."""
    model: str = ""
    """The model's name there."""
    task: str = "gp_l"
    """Which suites: a name such as gp_l, gp_vl_1200, virl_l, or a YAML file."""
    run_dir: str | None = None
    """Where replies and results go. None: runs/api-TASK-TIME. Naming that of an evaluation that was
    interrupted goes on with it."""
    key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key. It may be unset where none is needed."""
    concurrency: int = 16
    """Requests under way at a time."""
    timeout: float = 120.0
    """Seconds that a request may take, counted anew with every byte that arrives."""
    tries: int = 8
    """How often a request is made before the evaluation gives up: with exponential backoff, after
    answers 408, 409, 429 and 5xx, errors in an answer 200, broken connections and time-outs."""
    max_tokens_field: MaxTokensField = "max_tokens"
    """What the request calls the limit of `eval.max_new_tokens`; endpoints differ in it."""
    leave_out: list[Setting] = field(default_factory=list)
    """Settings that are not sent, where an endpoint refuses them: temperature, seed, max_tokens."""
    extra_body: dict[str, Any] = field(default_factory=dict)
    """Further fields of every request, such as {"top_p": 0.9}."""
    empty_reply: str = ""
    """What stands for a reply without text in the next turn, where an endpoint refuses such."""
    eval: EvalConfig = field(
        default_factory=lambda: EvalConfig(episodes=100, decoding=["greedy"], max_new_tokens=512)
    )
    """How it is evaluated. `greedy` asks for temperature 0."""
    env: EnvOptions = field(default_factory=EnvOptions)
    """What is changed of every suite's environment."""
    prompt_file: str | None = None
    """Wording of prompts and feedback, such as `python -m gym_dialogue.wording` makes;
    null: the environment's own."""


MAY_CHANGE = (
    *("base_url", "key_env", "concurrency", "timeout", "tries", "empty_reply", "run_dir"),
    *("eval.episodes", "eval.verify_iter", "eval.batch_size"),
)
"""Keys under which replies that have been paid for are still those that would be asked for."""


def main(config: ApiConfig) -> None:
    """Ask for all replies that the run does not hold yet, print the table, and leave the files of
    an evaluation, and usage.json. Raises InputError.
    """
    task = load_task(config.task)
    task.suites = playable(with_options(task.suites, config.env.kwargs), config.prompt_file)
    check_eval_config(config.eval)
    if config.eval.sampling != "given":
        raise InputError(
            f"eval.sampling={config.eval.sampling}: an API does not tell how a checkpoint is "
            "sampled: give eval.temperature and eval.top_p"
        )
    endpoint = Endpoint(config.base_url, config.model, config.key_env, config.timeout, config.tries)
    if not config.model:
        listed = ", ".join(endpoint.models())
        known = f"; {config.base_url} lists {listed}" if listed else ""
        raise InputError(f"model: must name one{known}")
    for suite in task.suites:  # a fault in it or in the wording shows before anything is paid
        make_envs(with_prompt_file(suite.env, config.prompt_file), 1)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    run_dir = Path(config.run_dir or f"runs/api-{task.task}-{stamp}")
    journal = _open_run(run_dir, config)
    try:
        policies: dict[str, Policy] = {
            d: _policy(endpoint, journal, d, config) for d in config.eval.decoding
        }
        print(f"Replies are kept in {run_dir}; --run_dir={run_dir} goes on after an interruption")
        label = config.model.rstrip("/").rpartition("/")[2]
        records = play_suites(
            policies, task.suites, config.eval, describe=label, prompt_file=config.prompt_file
        )
    except KeyboardInterrupt:
        print(f"\ninterrupted: --run_dir={run_dir} goes on from here", file=sys.stderr)
        sys.exit(130)
    finally:
        journal.close()
        print(f"\n{endpoint.usage}")
    report.write(run_dir, {label: records}, task.suites, config.eval.verify_iter)
    write_atomically(run_dir / "usage.json", json.dumps(endpoint.usage.to_json(), indent=1) + "\n")
    print(f"\nResults are in {run_dir}")
    leave_report(run_dir)


def _policy(endpoint: Endpoint, journal: Journal, decoding: str, config: ApiConfig) -> ApiPolicy:
    temperature = own_temperature(decoding) or config.eval.temperature
    if decoding == GREEDY:
        temperature = 0.0
    elif temperature == 0:
        raise InputError("eval.temperature=0: is greedy decoding; name that, or a higher one")
    top_p = {"top_p": config.eval.top_p} if config.eval.top_p < 1 else {}
    return ApiPolicy(
        endpoint,
        journal,
        temperature=temperature,
        max_new_tokens=config.eval.max_new_tokens,
        concurrency=config.concurrency,
        max_tokens_field=config.max_tokens_field,
        leave_out=config.leave_out,
        extra_body=top_p | config.extra_body,
        empty_reply=config.empty_reply,
    )


def _open_run(run_dir: Path, config: ApiConfig) -> Journal:
    """Return the journal of a new run, or of one to go on with. Raises InputError for the directory
    of another run, or of the same one under settings that ask for other replies.
    """
    file = run_dir / JOURNAL_FILE
    if not file.exists():
        RunDir(run_dir).start(config)
        return Journal(file)
    journal = Journal(file)
    try:
        before = _flat(
            RunDir(run_dir).readable_settings()
        )  # none where it is damaged: replies stay as they are
        now = _flat(asdict(config))
        defaults = _flat(asdict(ApiConfig()))  # of keys that are newer than the run
        had = {key: before.get(key, defaults[key]) for key in now}
        changed = [key for key in now if key not in MAY_CHANGE and had[key] != now[key]]
        if len(journal) and before and changed:
            raise InputError(
                f"run directory {run_dir}: holds replies under another {', '.join(changed)}; "
                "give what its config.yaml says, or name another directory"
            )
        RunDir(run_dir).write_config(config)
    except BaseException:
        journal.close()
        raise
    return journal


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with those of `eval` under dotted keys."""
    evaluation = settings.get("eval") or {}
    rest = {key: value for key, value in settings.items() if key != "eval"}
    return rest | {f"eval.{key}": value for key, value in evaluation.items()}


if __name__ == "__main__":
    run_command(main, ApiConfig)
