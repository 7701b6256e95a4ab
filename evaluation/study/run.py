"""Train and measure the arms of a study; what is done already is not done again."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from evaluation.play import eval_flags
from evaluation.study.config import ArmConfig, StudyConfig
from evaluation.study.layout import START, Place
from evaluation.study.steps import Steps
from gym_command.files import write_atomically
from gym_command.lock import sole_writer
from gym_command.run_dir import RunDir, saved_checkpoints
from gym_dialogue import InputError


def places(config: StudyConfig, study: Path) -> list[Place]:
    """Return the parts of a study in the order in which they are run: all arms of a seed, then the
    next seed, so that a study that is cut short has whole seeds.
    """
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    names = [START, *(arm.name for arm in config.chosen())]
    return [Place(study, seed, name) for seed in seeds for name in names]


def run_study(config: StudyConfig, study: Path) -> None:
    """Run the jobs of `only`, or all. Raises InputError, as the commands that it runs do."""
    chosen = places(config, study)
    names = [place.name for place in chosen]
    for name in config.only:
        if name not in names:
            raise InputError(f"only: {name!r} must be one of {', '.join(names)}")
    arms = {arm.name: arm for arm in config.chosen()}
    todo = [place for place in chosen if not config.only or place.name in config.only]
    kinds = [kind for place in todo for kind in _kinds(arms.get(place.arm))]
    with Steps(study / "steps.jsonl", kinds) as steps:
        for place in todo:
            with sole_writer(place.directory):
                if place.arm == START:
                    start = _start(config, steps, place)
                    _measure(config, steps, place, "evaluate the start", start, {0: start})
                else:
                    _run_arm(config, steps, place, arms[place.arm])


def _kinds(arm: ArmConfig | None) -> list[str]:
    """Return the kinds of steps of an arm (None: of the initial checkpoint), in order."""
    if arm is None:
        return ["make the start", "evaluate the start"]
    own = [f"sample own replies for {arm.name}"] if arm.own_replies else []
    start = [f"make the start for {arm.name}"] if arm.start_options else ["find the start"]
    return [*start, *own, f"train {arm.name}", f"evaluate {arm.name}"]


def _run_arm(config: StudyConfig, steps: Steps, place: Place, arm: ArmConfig) -> None:
    kinds = _kinds(arm)
    start = _start(config, steps, place, arm, kinds[0])
    options = list(arm.options)
    if arm.own_replies:
        data = RunDir(place.directory / "own").data_file
        if (data.parent / "own.json").is_file():  # what is written last
            steps.skip(kinds[1])
        else:
            shutil.rmtree(data.parent, ignore_errors=True)
            _sample_own(config, steps, place, arm, start, data)
        options.append(f"--data_file={data}")
    updates = arm.updates()
    if updates[-1] in place.updates:
        steps.skip(f"train {arm.name}")
    else:
        for_rl = ["--keep_last=0", "--keep_states=2", "--eval_ends=false"]
        steps.run(
            f"train {arm.name}",
            place.name,
            [
                *_launch(config, f"{arm.package}.train"),
                f"--config={arm.config}",
                f"--model={start}",
                f"--run_dir={place.run}",
                f"--seed={place.seed}",
                f"--save_every={arm.save_every}",
                *(for_rl if arm.package == "rl" else []),
                "--resume",
                *options,
            ],
            place.log,
        )
    saved = {update: str(RunDir(place.run).checkpoint(update)) for update in updates}
    if arm.start_options:
        saved[0] = start
    _measure(config, steps, place, f"evaluate {arm.name}", start, saved)


def _start(
    config: StudyConfig,
    steps: Steps,
    place: Place,
    arm: ArmConfig | None = None,
    kind: str = "make the start",
) -> str:
    """Return the initial checkpoint of the seed, or the arm's own; make it if need be."""
    if config.start_model:
        steps.skip(kind)
        return saved_checkpoints(config.start_model)[-1]
    own = arm.start_options if arm else []
    directory = place.directory if own else Place(place.study, place.seed, START).directory
    path = start_of(directory)
    if path is not None:
        steps.skip(kind)
        return path
    printed = steps.run(
        kind,
        place.name,
        [
            *_launch(config, "sft.initial"),
            f"--config={config.start_config}",
            f"--seed={place.seed}",
            *own,
        ],
        place.log,
    )
    start = printed.split()[-1]
    write_atomically(directory / "start.json", json.dumps({"path": start}) + "\n")
    return start


def start_of(directory: Path) -> str | None:
    """Return the initial checkpoint made for a part of the study, if it is still there."""
    note = directory / "start.json"
    try:
        start = json.loads(note.read_text())["path"]
        return start if (Path(start) / "config.json").is_file() else None
    except (OSError, ValueError, TypeError, KeyError):  # then it is made again, or found
        return None


def _sample_own(
    config: StudyConfig, steps: Steps, place: Place, arm: ArmConfig, start: str, data: Path
) -> None:
    """Sample replies of the initial checkpoint that the verifier accepts, as data to learn from."""
    settings = yaml.safe_load(Path(arm.config).read_text())
    source = (settings.get("sources") or [{}])[0]
    steps.run(
        f"sample own replies for {arm.name}",
        place.name,
        [
            *_launch(config, "sft.rejection"),
            f"--model={start}",
            f"--seed={place.seed}",
            f"--num_dialogues={arm.own_replies}",
            f"--env={json.dumps(source.get('env', {}))}",
            f"--max_new_tokens={config.eval.max_new_tokens}",
            f"--run_dir={data.parent}",
        ],
        place.log,
    )


def _measure(
    config: StudyConfig,
    steps: Steps,
    place: Place,
    kind: str,
    start: str,
    checkpoints: dict[int, str],
) -> None:
    """Evaluate what has not been; the initial and the last checkpoint at greater length."""
    missing = [update for update in checkpoints if not place.measured(update).is_file()]
    if not missing:
        steps.skip(kind)
        return
    ends = {0, max(checkpoints)}
    curve = config.eval.verify_iter, config.eval.episodes
    end = config.end_verify_iter, config.end_episodes or config.eval.episodes
    iters, episodes = zip(*(end if update in ends else curve for update in missing), strict=True)
    settings = dict(vars(config.eval))
    if place.arm == START:
        settings["decoding"] = list(dict.fromkeys([*settings["decoding"], *config.start_decoding]))
    steps.run(
        kind,
        place.name,
        [
            *_launch(config, "evaluation.study.measure"),
            f"--start={start}",
            f"--checkpoints={json.dumps([checkpoints[update] for update in missing])}",
            f"--files={json.dumps([str(place.measured(update)) for update in missing])}",
            f"--verify_iters={json.dumps(iters)}",
            f"--episodes={json.dumps(episodes)}",
            f"--task={config.suites or config.task}",
            *eval_flags(settings),
            f"--divergence_episodes={config.divergence_episodes}",
            f"--dtype={config.dtype}",
        ],
        place.log,
    )


def _launch(config: StudyConfig, module: str) -> Sequence[str]:
    return [sys.executable, "-m", "gym_command.launch", config.processes, module]
