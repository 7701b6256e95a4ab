"""Prepares a fine-tuning: the model to train and the dialogues to learn from."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedModel

from gym_command.run_dir import RunDir
from gym_dialogue import Message, shows_images
from gym_dialogue.data import read_dialogues
from gym_dialogue.make import make_envs, with_prompt_file
from gym_policy import Renderer, load_model
from gym_policy.distributed import join_processes, with_deepspeed
from gym_policy.parts import check_parts, freeze_parts
from gym_policy.vision import checkpoint_activations
from sft.config import SFTConfig
from sft.data import make_dialogues, write_jsonl


def load_initial(config: SFTConfig, path: str) -> PreTrainedModel:
    """Return the model to train. Without DeepSpeed its weights are in float32, whatever is computed
    in.
    """
    dtype = config.dtype if with_deepspeed() else "float32"
    model = load_model(path, dtype, config.trust_remote_code)
    check_parts(model, config.freeze, config.part_lr)
    freeze_parts(model, config.freeze)
    if config.gradient_checkpointing:
        checkpoint_activations(model)
    return model


def prepare_run(
    config: SFTConfig,
    renderer: Renderer | None = None,
    start: str | None = None,
    goes_on: bool = False,
) -> list[list[Message]]:
    """Start the run's directory and return the dialogues to learn from: those of the data file, or
    oracle dialogues made now and kept as data.jsonl, with their images in the directory images. A
    run that goes on has both.
    Raises InputError, before anything is made, for images that the model of the
    checkpoint `start` cannot be shown.
    """
    state = join_processes()
    # What is given is looked at first, so that a fault in it leaves no directory behind.
    given = (
        None
        if config.data_file is None
        else list(read_dialogues(config.data_file, config.image_folder))
    )
    files = RunDir(config.run_dir)
    if goes_on:
        return list(read_dialogues(files.data_file)) if given is None else given
    sources = [
        replace(source, env=with_prompt_file(source.env, config.prompt_file))
        for source in config.sources
    ]
    if given is None or config.prompt_file is not None:
        for source in sources:
            (env,) = make_envs(source.env, 1)
            if renderer is not None and shows_images(env):
                renderer.require_images(f"environment {source.env.id}", start)
    if renderer is not None and any(m.image is not None for d in given or () for m in d):
        renderer.require_images(f"data file {config.data_file}", start)
    if state.is_main_process:
        files.start(config)
    state.wait_for_everyone()
    if given is not None:
        return given
    made = make_dialogues(
        sources,
        config.num_dialogues,
        config.seed,
        files.images_dir,
        stream=config.DATA_STREAM,
    )
    if state.is_main_process:
        write_jsonl(files.data_file, made)
    state.wait_for_everyone()
    return list(read_dialogues(files.data_file))
