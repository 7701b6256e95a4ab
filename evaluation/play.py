"""Play the suites of a task with a policy.

The same seed gives every checkpoint the same hands or routes, and the same random numbers to
sample with, so that two checkpoints compare pair by pair.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from evaluation.decodings import GREEDY, own_temperature
from evaluation.metrics import summarize
from evaluation.records import (
    EpisodeRecord,
    Records,
    episode_record,
    records_from_json,
    records_to_json,
)
from evaluation.suites import SuiteConfig
from gym_command.files import write_atomically
from gym_command.ranges import Count, Length, Range, Seed, check_ranges
from gym_dialogue import InputError, Policy, Task, rollout
from gym_dialogue.make import EnvConfig, make_envs, with_prompt_file
from gym_policy import ModelPolicy, Renderer
from gym_policy.completion import Sampler
from gym_policy.samplers.model_policy import SamplerName

_ENV_STREAM = 0xE7A1  # tells evaluation seeds from training seeds


@dataclass
class EvalConfig:
    """How a checkpoint is evaluated."""

    episodes: Count = 500
    """Episodes per suite and decoding."""
    each_once: bool = False
    """Whether a suite's episodes are instead each of its puzzles or routes exactly once, in order,
    however many there are."""
    seed: Seed = 0
    """Decides every hand or route, and every random number of sampling."""
    samples: Count = 1
    """Times that each episode is played where decoding is sampled, for pass@k. Greedy decoding
    plays it once."""
    decoding: list[str] = field(default_factory=lambda: ["sampled", "greedy"])
    """`sampled`: from the tempered distribution; `greedy`: the most likely tokens; `sampled@0.7`:
    from the distribution at a temperature of its own."""
    temperature: Annotated[float, Range(0, 1e4)] = 1.0
    """Of `sampled`."""
    top_p: Annotated[float, Range(0, 1, open_low=True)] = 1.0
    """Of sampling: among the most likely tokens that together have this probability."""
    sampling: Literal["given", "generation_config"] = "given"
    """Where temperature and top_p are from: here, or the checkpoint's generation_config.json."""
    max_new_tokens: Length = 64
    """Tokens a reply may have."""
    verify_iter: Count = 5
    """Replies that an episode allows."""
    batch_size: Length = 250
    """Episodes played side by side, which share the sampling batch."""


def eval_flags(settings: Mapping[str, Any]) -> list[str]:
    """Return the flags of a command that give the settings of an EvalConfig."""
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in settings.items()}
    return [f"--eval.{key}={text}" for key, text in texts.items()]


def evaluation_tasks(seed: int, suite_number: int, count: int) -> list[Task]:
    """Return the seeded episodes of one suite."""
    return [
        Task(_env_seed(seed, suite_number, i), (_ENV_STREAM, seed, suite_number, i))
        for i in range(count)
    ]


def suite_tasks(config: EvalConfig, suite_number: int, env: EnvConfig) -> list[Task]:
    """Return the episodes of one suite: seeded ones, or each puzzle once. Raises InputError."""
    if not config.each_once:
        return evaluation_tasks(config.seed, suite_number, config.episodes)
    (instance,) = make_envs(env, 1)
    expert: Any = instance.unwrapped
    options = expert.each_once()
    seeded = evaluation_tasks(config.seed, suite_number, len(options))
    return [replace(task, options=o) for task, o in zip(seeded, options, strict=True)]


def repeated(tasks: Sequence[Task], decoding: str, config: EvalConfig) -> list[Task]:
    """Return episodes as often as they are played: once where decoding is greedy, else `samples`
    times, side by side, each time with random numbers of its own.
    """
    again = range(1, 1 if decoding == GREEDY else config.samples)
    return [
        played
        for task in tasks
        for played in (task, *(replace(task, sample_key=(*task.sample_key, k)) for k in again))
    ]


def _env_seed(seed: int, suite_number: int, index: int) -> int:
    sequence = np.random.SeedSequence([_ENV_STREAM, seed, suite_number, index])
    return int(sequence.generate_state(1)[0])


def suite_env(suite: SuiteConfig, verify_iter: int, prompt_file: str | None) -> EnvConfig:
    """Return the environment of a suite, as an evaluation makes it."""
    env = with_prompt_file(suite.env, prompt_file)
    return EnvConfig(env.id, {"verify_iter": verify_iter} | env.kwargs)


def play_suites(
    policies: Mapping[str, Policy],
    suites: Sequence[SuiteConfig],
    config: EvalConfig,
    describe: str = "evaluation",
    show_progress: bool = True,
    prompt_file: str | None = None,
) -> Records:
    """Play every suite with every policy (by decoding), in the wording of `prompt_file` if there is
    one. Returns the records by decoding and suite, on every rank.

    The ranks take chunks of `batch_size` episodes in turn. A chunk is played in the same batches
    whichever rank takes it, so results do not depend on the number of ranks.
    """
    state = PartialState()
    envs = [suite_env(suite, config.verify_iter, prompt_file) for suite in suites]
    once = [suite_tasks(config, number, env) for number, env in enumerate(envs)]
    size = config.batch_size
    chunks = [
        _Chunk(number, decoding, tasks[first : first + size], first)
        for number in range(len(suites))
        for decoding in policies
        for tasks in (repeated(once[number], decoding, config),)
        for first in range(0, len(tasks), size)
    ]
    shown = show_progress and state.is_main_process
    assigned = chunks[state.process_index :: state.num_processes]
    total = sum(len(chunk.tasks) for chunk in assigned)
    with tqdm(
        total=total, desc=describe, unit="episode", mininterval=1, disable=not shown
    ) as progress:
        played = _play_chunks(assigned, envs, policies, progress.update)
    by_chunk = dict(gather_object(played) if state.num_processes > 1 else played)
    records: Records = {decoding: {} for decoding in policies}
    for chunk in chunks:
        of_suite = records[chunk.decoding].setdefault(suites[chunk.suite].name, [])
        of_suite += by_chunk[chunk.key]
    return records


@dataclass(frozen=True)
class _Chunk:
    """Episodes that are played together, from the one numbered `first` on."""

    suite: int
    decoding: str
    tasks: list[Task]
    first: int

    @property
    def key(self) -> tuple[int, str, int]:
        return self.suite, self.decoding, self.first


def _play_chunks(
    chunks: Sequence[_Chunk],
    envs: Sequence[EnvConfig],
    policies: Mapping[str, Policy],
    on_episode: Callable[[], Any],
) -> list[tuple[tuple[int, str, int], list[EpisodeRecord]]]:
    """Play chunks; return their keys and records. The environments of one suite are kept at a
    time.
    """
    played = []
    ready: dict[int, list[Any]] = {}
    for chunk in chunks:
        if chunk.suite not in ready:
            largest = max(len(c.tasks) for c in chunks if c.suite == chunk.suite)
            ready = {chunk.suite: make_envs(envs[chunk.suite], largest)}
        policy = policies[chunk.decoding]
        episodes = rollout(ready[chunk.suite], policy, chunk.tasks, lambda _: on_episode())
        played.append((chunk.key, [episode_record(episode) for episode in episodes]))
        del episodes  # with their images, before the next are played
    return played


def write_records(file: Path, records: Records) -> None:
    """Write the records of an evaluation, whole or not at all."""
    write_atomically(file, json.dumps(records_to_json(records)))


def read_records(file: Path, suites: Sequence[SuiteConfig], config: EvalConfig) -> Records | None:
    """Read the records of an evaluation. Returns None, for it to be played again, where there are
    none, the file is damaged, or they are of other suites or episodes.
    """
    expected: dict[str, dict[str, list[int]]] = {decoding: {} for decoding in config.decoding}
    for number, suite in enumerate(suites):
        once = suite_tasks(config, number, suite_env(suite, config.verify_iter, None))
        for decoding, by_suite in expected.items():
            tasks = repeated(once, decoding, config)
            by_suite[suite.name] = [task.env_seed for task in tasks]
    try:
        records = records_from_json(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        records = {}
    recorded = {
        decoding: {
            suite: [episode.env_seed for episode in episodes if episode.turns]
            for suite, episodes in by_suite.items()
        }
        for decoding, by_suite in records.items()
    }
    if recorded == expected:
        return records
    if PartialState().is_main_process:
        print(f"warning: {file}: is damaged, or of other episodes: played again", file=sys.stderr)
    return None


def model_policies(
    model: Any, renderer: Renderer, config: EvalConfig, sampler: SamplerName | Sampler = "cached"
) -> dict[str, ModelPolicy]:
    """Return a policy for each decoding, all with the same sampler. Raises InputError for a
    generation_config whose settings cannot be sampled with.
    """
    temperature, top_p = config.temperature, config.top_p
    if config.sampling == "generation_config":
        shipped = model.generation_config
        temperature = 1.0 if shipped.temperature is None else shipped.temperature
        top_p = 1.0 if shipped.top_p is None else shipped.top_p
        if not (temperature > 0 and 0 < top_p <= 1):
            raise InputError(
                f"generation_config: temperature={temperature}, top_p={top_p}: both must be above "
                "0, and top_p at most 1; or give them here, with --eval.sampling=given"
            )
    return {
        decoding: ModelPolicy(
            model,
            renderer,
            temperature=own_temperature(decoding) or temperature,
            max_new_tokens=config.max_new_tokens,
            greedy=decoding == GREEDY,
            batch_size=config.batch_size,
            sampler=sampler,
            top_p=top_p,
        )
        for decoding in config.decoding
    }


def summarize_records(records: Records, verify_iter: int) -> dict[str, dict[str, Any]]:
    """Apply `metrics.summarize` to every decoding and suite."""
    return {
        decoding: {name: summarize(rs, verify_iter) for name, rs in by_suite.items()}
        for decoding, by_suite in records.items()
    }


def check_eval_config(config: EvalConfig) -> None:
    """Raise InputError for numbers that describe no evaluation."""
    check_ranges(config)
    if not config.decoding:
        raise InputError("decoding: must list sampled, greedy or both")
    for decoding in config.decoding:
        own_temperature(decoding)
