"""What a study consists of: its arms, its seeds and how checkpoints are evaluated."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import yaml

from evaluation.play import EvalConfig, check_eval_config
from gym_command.ranges import Count, Natural, Seed, check_ranges
from gym_dialogue import InputError

CONFIG_DIR = Path(__file__).parent / "configs"


@dataclass
class ArmConfig:
    """One way of post-training, from an initial checkpoint to a row of checkpoints."""

    name: str
    """Short name, of its directory and in `arms`."""
    package: Literal["sft", "rl"]
    """What trains it: the command sft.train or rl.train."""
    config: str
    """The configuration file of that command."""
    title: str = ""
    """What figures call it; the name if empty."""
    options: list[str] = field(default_factory=list)
    """Further settings of that command, as --key=value."""
    every: Count = 10
    """Updates (RL) or steps (SFT) between the checkpoints that are evaluated."""
    also: list[int] = field(default_factory=list)
    """Further ones that are evaluated, such as early ones, where SFT moves fast."""
    start_options: list[str] = field(default_factory=list)
    """Settings of sft.start in which the initial checkpoint of this arm differs from that of the
    others, as --key=value: an overfit one, or one that has hardly been trained."""
    own_replies: Natural = 0
    """Above 0: what it learns from are so many replies of the initial checkpoint itself that the
    verifier accepted (rejection sampling, `sft.rejection`); sampling them counts as compute."""

    def updates(self) -> list[int]:
        """Return the updates (RL) or steps (SFT) whose checkpoints are evaluated, the last one the
        end. A run that was interrupted may have left others.

        Raises InputError where neither `options` nor `config` say how long the arm is.
        """
        key = "num_updates" if self.package == "rl" else "num_steps"
        given = [o.partition("=")[2] for o in self.options if o.startswith(f"--{key}=")]
        if given:
            last = yaml.safe_load(given[-1])
        else:
            try:
                last = yaml.safe_load(Path(self.config).read_text()).get(key)
            except (OSError, yaml.YAMLError, AttributeError) as error:
                raise InputError(
                    f"arm {self.name}: config {self.config}: cannot be read: {error}"
                ) from error
        if not isinstance(last, int):
            raise InputError(f"arm {self.name}: neither {self.config} nor its options give {key}")
        early = [update for update in self.also if 0 < update < last]
        return sorted({*early, *range(self.every, last, self.every), last})

    @property
    def save_every(self) -> int:
        """Return the updates or steps between checkpoints, so that all of `updates` are saved."""
        return math.gcd(self.every, *self.also)


@dataclass
class StudyConfig:
    """Compare ways of post-training from the same initial checkpoints at equal compute."""

    task: str = "gp_l"
    """What is learned: gp_l, gp_vl, virl_l or virl_vl, or any for which there is a file."""
    scale: str = "tiny"
    """Which model and how much of it: tiny, small or paper. Task and scale name the file of
    evaluation/study/configs that the other settings come from."""
    seeds: Count = 3
    """Seeds, each with its own initial checkpoint and its own runs."""
    first_seed: Seed = 0
    """The first of them."""
    arms: list[str] = field(default_factory=lambda: ["sft", "rl"])
    """Names of the arms that are run, of those in `known_arms`."""
    run_dir: str | None = None
    """Where everything goes. None: runs/study-TASK-SCALE. A study that is there already goes on."""
    only: list[str] = field(default_factory=list)
    """Jobs to run, such as seed0/rl, each of which may run on another machine; --list_jobs names
    them. None: all that are not done."""
    list_jobs: bool = False
    """Print the names of the jobs, one a line, and stop."""
    analyse: bool = False
    """Run nothing: analyse what there is."""
    processes: str = "2"
    """How each command is spread over processes: their number, or an accelerate configuration."""

    suites: str | None = None
    """Which suites every checkpoint is evaluated on, a name or a YAML file. None: the task's."""
    start_config: str | None = None
    """How initial checkpoints are made (sft/configs/*_start.yaml), one for each seed."""
    start_model: str | None = None
    """In its place, an initial checkpoint for all seeds: a directory or a hub name."""
    known_arms: list[ArmConfig] = field(default_factory=list)
    """The arms that there are."""
    eval: EvalConfig = field(
        default_factory=lambda: EvalConfig(episodes=300, decoding=["sampled"], verify_iter=1)
    )
    """How every checkpoint is evaluated. The first decoding is that of the claim."""
    start_decoding: list[str] = field(
        default_factory=lambda: ["sampled@0.85", "sampled@0.7", "sampled@0.5", "greedy"]
    )
    """Further decodings of initial checkpoints: what lower temperatures gain without training is
    the control for a policy that training has sharpened."""
    headline: list[str] = field(default_factory=lambda: ["rl", "sft"])
    """The two arms of the claim: the first less the second."""
    primary: str = ""
    """The suite of the claim; the first with another rule if empty."""
    end_verify_iter: Count = 5
    """Replies that an episode allows when initial and last checkpoints are evaluated, for success
    against verifier replies."""
    end_episodes: Count | None = None
    """Episodes a suite when initial and last checkpoints are evaluated, on which the claim rests.
    None: as along the curve."""
    divergence_episodes: Natural = 100
    """Episodes of the first suite on which the KL divergence from the initial checkpoint is
    measured."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights in evaluations."""

    def chosen(self) -> list[ArmConfig]:
        """Return the arms to run, in the order asked for. Raises InputError for an unknown name."""
        known = {arm.name: arm for arm in self.known_arms}
        for name in self.arms:
            if name not in known:
                raise InputError(f"arms: {name!r} must be one of {', '.join(known)}")
        return [known[name] for name in dict.fromkeys(self.arms)]


def study_file(task: str, scale: str) -> Path:
    """Return the file of a study's settings. Raises InputError if there is none."""
    file = CONFIG_DIR / f"{task}_{scale}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in CONFIG_DIR.glob("*.yaml")))
        raise InputError(f"task={task}, scale={scale}: there is no such study; there are {known}")
    return file


def check_config(config: StudyConfig) -> None:
    """Raise InputError for values that describe no study."""
    check_ranges(config)
    if bool(config.start_config) == bool(config.start_model):
        raise InputError("initial checkpoint: give either start_config or start_model")
    if not config.arms:
        raise InputError("arms: name at least one")
    if config.end_episodes is not None and config.end_episodes < config.eval.episodes:
        raise InputError(
            f"end_episodes={config.end_episodes}: must be at least eval.episodes, "
            f"{config.eval.episodes}"
        )
    for arm in config.chosen():
        if arm.start_options and not config.start_config:
            raise InputError(f"arm {arm.name}: start_options need a start_config")
        if arm.own_replies and arm.package != "sft":
            raise InputError(f"arm {arm.name}: own_replies are for package sft")
        if any(update < 1 for update in arm.also):
            raise InputError(f"arm {arm.name}: also={arm.also}: must be updates or steps from 1 on")
    decodings = [*config.eval.decoding, *config.start_decoding]
    check_eval_config(replace(config.eval, decoding=decodings))
    if len(config.headline) != 2:
        raise InputError(f"headline={config.headline}: must name two arms, such as [rl, sft]")
