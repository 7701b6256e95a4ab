"""Evaluates checkpoints side by side: the command behind scripts/eval_ood.sh."""

from __future__ import annotations

import gc
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from evaluation import report
from evaluation.html import leave_report
from evaluation.play import EvalConfig, check_eval_config, eval_flags, model_policies, play_suites
from evaluation.suites import CONFIG_DIR, EnvOptions, load_task, playable, with_options
from gym_command.command import parse_config, run_command
from gym_command.run_dir import RunDir, saved_checkpoints
from gym_dialogue import InputError, shows_images
from gym_dialogue.make import Kwargs, make_envs, with_prompt_file
from gym_policy import load_model, load_renderer
from gym_policy.distributed import join_processes
from gym_policy.samplers.model_policy import SamplerName, make_sampler
from gym_policy.samplers.vllm import VllmSampler
from gym_policy.training.trained_wording import settings_of, wording_note


@dataclass
class CommandConfig:
    """Evaluate checkpoints in and out of distribution, side by side."""

    checkpoints: list[str] = field(default_factory=list)
    """Directories saved by save_pretrained, hub names, or runs. A run stands for its first and
    its last checkpoint. The first of the list is what the others are compared with. None: the
    newest run under runs/."""
    task: str | None = None
    """Which suites: a name such as gp_l, or a YAML file. None: the task of the first run given,
    else gp_l."""
    settings: str | None = None
    """Settings by name, under those of the flags: `paper` evaluates the task gp_l, gp_vl, virl_l or
    virl_vl as the paper does (evaluation/configs/paper). Without `task`, the first checkpoint's
    name tells it."""
    env: EnvOptions = field(default_factory=EnvOptions)
    """What is changed of every suite's environment."""
    run_dir: str | None = None
    """Where results go. None: runs/eval-TASK-TIME."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights."""
    device: str | None = None
    """Such as cpu or cuda:0. None: a GPU if there is one."""
    sampler: SamplerName = "cached"
    """What samples, as in training; vllm asks the servers in engines."""
    engines: list[str] = field(default_factory=list)
    """Addresses of vLLM servers (scripts/serve.sh) for sampler=vllm, which are sent the weights of
    each checkpoint in turn through run_dir; they must see it under the same path."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """How each is evaluated. Keys that are not given follow the first run given."""
    prompt_file: str | None = None
    """Wording of prompts and feedback, such as `python -m gym_dialogue.wording` makes. If
    not given, that of the first run given, else the environment's own (with null, always)."""
    chat_template_kwargs: Kwargs | None = None
    """Variables of the models' chat templates, such as {"enable_thinking": false}. If not given,
    those of the first run given."""
    trust_remote_code: bool = False
    """Whether Python code that comes with a model is run. Without it, a model that needs such code
    is refused."""


def main(config: CommandConfig) -> None:
    """Evaluate each checkpoint, print the table, leave the files. Raises InputError."""
    given = config.checkpoints or [_newest_run()]
    name = config.task or settings_of(given[0]).get("task") or "gp_l"
    task = load_task(name)
    task.suites = playable(with_options(task.suites, config.env.kwargs), config.prompt_file)
    check_eval_config(config.eval)
    checkpoints = [c for path in given for c in saved_checkpoints(path)]
    given_kwargs, trusts = config.chat_template_kwargs, config.trust_remote_code
    renderers = {path: load_renderer(path, given_kwargs, trusts) for path in checkpoints}
    # A fault in a suite or in the wording shows before any model is loaded.
    envs = [make_envs(with_prompt_file(s.env, config.prompt_file), 1)[0] for s in task.suites]
    for suite, env in zip(task.suites, envs, strict=True):
        if shows_images(env):
            for path, renderer in renderers.items():
                renderer.require_images(f"suite {suite.name}", path)
    state = join_processes()
    device = config.device or state.device
    stamp = time.strftime("%Y%m%d-%H%M%S")
    run_dir = Path(config.run_dir or f"runs/eval-{task.task}-{stamp}")
    if state.is_main_process:
        for path in checkpoints:
            if note := wording_note(path, config.prompt_file):
                print(note)
        RunDir(run_dir).start(replace(config, checkpoints=given, task=name))
    results = {}
    for label, path in _labels(checkpoints).items():
        model = load_model(path, config.dtype, trusts)
        model.to(device)  # type: ignore[arg-type]
        weights = RunDir(run_dir).weights_dir.resolve()
        sampler = make_sampler(config.sampler, model, config.engines, weights)
        if isinstance(sampler, VllmSampler):  # by a prompt it is seen whether servers have them
            prompt = renderers[path].first_prompt(envs[0], path).token_ids
            sampler.update_together(label.replace("/", "-"), [prompt])
        policies = model_policies(model, renderers[path], config.eval, sampler)
        results[label] = play_suites(
            policies, task.suites, config.eval, describe=label, prompt_file=config.prompt_file
        )
        state.wait_for_everyone()
        if state.is_main_process and isinstance(sampler, VllmSampler):
            sampler.close()
        del model, policies, sampler
        gc.collect()
    if state.is_main_process:
        report.write(run_dir, results, task.suites, config.eval.verify_iter)
        print(f"\nResults are in {run_dir}")
        leave_report(run_dir)
    state.destroy_process_group()


def _labels(paths: Sequence[str]) -> dict[str, str]:
    """Return a short, unique label for each checkpoint: the shortest tail of its path that does."""
    labels: dict[str, str] = {}
    for path in dict.fromkeys(paths):
        parts = Path(path).parts
        tails = ("/".join(parts[-n:]) for n in range(1, len(parts) + 1))
        others = [p for p in paths if p != path]
        label = next((t for t in tails if not any(p.endswith(t) for p in others)), path)
        labels[label] = path
    return labels


def _newest_run() -> str:
    runs = [RunDir(path) for path in Path("runs").glob("*")]
    runs = [run for run in runs if run.config_file.is_file() and run.saved_checkpoints()]
    if not runs:
        raise InputError("no checkpoint given and no run under runs/: name one, or train one first")
    return str(max(runs, key=lambda run: run.config_file.stat().st_mtime))


def main_with_run_settings(config: CommandConfig) -> None:
    """Run `main` with settings by name under those of the flags; else with the evaluation settings
    of the first run given, so that evaluating a run again prints the same numbers.
    The wording is that of the run in either case.
    """
    given = config.checkpoints or [_newest_run()]
    flags, settings = sys.argv[1:], settings_of(given[0])
    if config.settings is None:
        defaults = eval_flags(settings.get("eval") or {})
    else:
        file = _settings_file(config, given[0])
        defaults = [f"--config={file}"]
        flags.append(f"--task={load_settings(file).task}")
    prompt_file = settings.get("prompt_file")
    if prompt_file is not None:
        defaults.append(f"--prompt_file={prompt_file}")
    template_kwargs = settings.get("chat_template_kwargs")
    if template_kwargs:
        defaults.append(f"--chat_template_kwargs={json.dumps(template_kwargs)}")
    main(parse_config(CommandConfig, [*defaults, *flags]))


def load_settings(file: Path) -> CommandConfig:
    """Read the settings of a file. Raises InputError."""
    return parse_config(CommandConfig, [f"--config={file}"])


def _settings_file(config: CommandConfig, checkpoint: str) -> Path:
    """Return the file of settings by name, for the task at hand. Raises InputError."""
    directory = CONFIG_DIR / (config.settings or "")
    known = sorted(path.stem for path in directory.glob("*.yaml"))
    if not known:
        names = ", ".join(sorted(path.name for path in CONFIG_DIR.iterdir() if path.is_dir()))
        raise InputError(f"settings={config.settings}: must be one of {names}")
    name = config.task
    if name is None:
        name = _named_task(settings_of(checkpoint).get("task") or "", known)
        name = name or _named_task(checkpoint, known)
        if name is None:
            raise InputError(
                f"{config.settings}: {checkpoint} does not tell its task by its name: say which "
                f"with --task={'|'.join(known)}"
            )
    if name not in known:
        raise InputError(f"task {name!r}: {config.settings} is for {', '.join(known)}")
    return directory / f"{name}.yaml"


def _named_task(path: str, known: Sequence[str]) -> str | None:
    """Return the last task that a path names (tianzhechu/GP-VL-Init: gp_vl); None if none."""
    text = path.lower().replace("-", "_")
    named = re.findall(rf"(?<![a-z0-9])(?:{'|'.join(known)})(?![a-z0-9])", text)
    return named[-1] if named else None


if __name__ == "__main__":
    run_command(main_with_run_settings, CommandConfig)
