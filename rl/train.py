"""Training a policy from a verifier's rewards: collect, learn, record, save.

To read one update: the loop here, rl/run.py, gym_dialogue/rollout.py,
gym_policy/samplers/model_policy.py, rl/learner.py, rl/ppo.py.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

from evaluation.suites import TaskConfig, load_task, playable
from gym_command.command import run_command
from gym_command.lock import sole_writer
from gym_dialogue import InputError
from gym_policy.training.stop import StopRequest
from gym_policy.training.trained_wording import wording_note
from rl.backend import check_stage, make_accelerator, zero_stage
from rl.config import RLConfig, check_config
from rl.run import Run


def train(config: RLConfig, goes_on: Callable[[Run], bool] = lambda run: True) -> Path:
    """Train from the first update to the last, or resume; return the run's directory. `goes_on` is
    asked before each update, on every rank alike, and ends the training where it says no.

    Raises InputError for a configuration that describes no run.
    """
    check_config(config)
    if config.dry_run:
        return _print_plan(config)
    task = _load_task(config)
    with StopRequest() as stop:
        accelerator = make_accelerator(config)
        check_stage(config, zero_stage(accelerator))
        with sole_writer(config.run_dir, accelerator.is_main_process):
            run = Run.open(config, task, accelerator, stop)
            for update in takewhile(lambda _: goes_on(run), run.updates()):
                collected = run.collect(update)
                metrics = run.learn(update, collected)
                run.record(update, metrics, collected)
                run.save(update)
                del collected  # with its images, before the next episodes are played
            return run.finish()


def _print_plan(config: RLConfig) -> Path:
    """Print the resolved settings and the memory that a run takes."""
    from rl.memory import print_plan

    print_plan(config)
    if note := wording_note(config.model, config.prompt_file):
        print(note)
    return Path(config.run_dir)


def _load_task(config: RLConfig) -> TaskConfig:
    """Return the task, with the suites that can be played. Raises InputError for a `best_by` that
    no evaluation of it measures.
    """
    task = load_task(config.task)
    task.suites = playable(task.suites, config.prompt_file)
    measured = [f"eval/{suite.name}/{d}" for suite in task.suites for d in config.monitor.decoding]
    if config.best_by not in measured:
        raise InputError(f"best_by={config.best_by}: must be one of {', '.join(measured)}")
    return task


if __name__ == "__main__":
    run_command(train, RLConfig)
