"""Supervised fine-tuning on oracle dialogues or a file of dialogues, by transformers.Trainer.

To read it: `train` here, then sft/prepare.py, sft/fit.py, sft/trainer.py.
"""

from __future__ import annotations

from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from gym_command.command import run_command
from gym_command.lock import sole_writer
from gym_command.run_dir import saved_checkpoints
from gym_policy import load_renderer
from gym_policy.distributed import join_processes
from gym_policy.training.stop import StopRequest
from gym_policy.training.trained_wording import wording_note
from sft.config import SFTConfig, check_config
from sft.fit import fit
from sft.prepare import load_initial, prepare_run
from sft.resume import resume_from


def train(config: SFTConfig) -> Path:
    """Run a whole training; returns its directory."""
    check_config(config)
    with StopRequest() as stop:
        state = join_processes()
        with sole_writer(config.run_dir, state.is_main_process):
            return _train(config, state, stop)


def _train(config: SFTConfig, state: PartialState, stop: StopRequest) -> Path:
    run_dir = Path(config.run_dir)
    saved_by_rank_0 = [resume_from(config) if config.resume and state.is_main_process else None]
    saved = broadcast_object_list(saved_by_rank_0)[0]  # rank 0 alone puts the directory in order
    if saved is not None and saved.state is None:
        if state.is_main_process:
            print(f"The run in {run_dir} is finished: {saved.checkpoint}")
        state.destroy_process_group()
        return run_dir
    if saved is None and config.resume and state.is_main_process:
        print(f"Nothing to resume in {run_dir}: starting the run")
    start = saved_checkpoints(config.model)[-1] if saved is None else str(saved.checkpoint)
    renderer = load_renderer(start, config.chat_template_kwargs, config.trust_remote_code)
    model = load_initial(config, start)
    dialogues = prepare_run(config, renderer, start, goes_on=saved is not None)
    note = wording_note(start, config.prompt_file)
    if saved is None and config.data_file is None and note and state.is_main_process:
        print(note)
    if saved is not None and state.is_main_process:
        print(f"Resuming from {saved.checkpoint}")
    step = fit(model, renderer, dialogues, config, run_dir, saved=saved, stop=stop)
    is_whole = step == config.num_steps
    if state.is_main_process:
        if is_whole:
            print(f"\nRun directory: {run_dir}")
        else:
            print(f"\nInterrupted: saved after step {step}. Resume with --resume.")
    state.wait_for_everyone()  # a launcher may end what is left after the first
    state.destroy_process_group()
    if not is_whole:
        raise SystemExit(stop.exit_code)
    return run_dir


if __name__ == "__main__":
    run_command(train, SFTConfig)
