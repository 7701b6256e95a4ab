"""Trains a model on an environment with TRL's GRPOTrainer.

python -m gym_dialogue.adapters.trl_train --model DIRECTORY --max_steps 5
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from gym_dialogue.adapters.episodes import at_least_one, json_object, make
from gym_dialogue.adapters.library import library
from gym_dialogue.adapters.trl import DialogueRollouts, episode_reward, prompt_dataset
from gym_dialogue.errors import InputError, one_line

with library("trl"):
    import torch
    from trl import GRPOConfig, GRPOTrainer

    from gym_policy import load_model, load_renderer


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a chat model on an environment, and save it in OUTPUT_DIR."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", required=True, help="a directory or a hub name")
    parser.add_argument("--env_id", default="gym_cards/GeneralPoint-oneline-v0")
    parser.add_argument("--kwargs", type=json_object, default={}, help="of the environment")
    count = at_least_one
    parser.add_argument("--episodes", type=count, default=1000, help="that are trained on")
    parser.add_argument("--max_steps", type=count, default=100)
    parser.add_argument("--max_completion_length", type=count, default=256, help="of each reply")
    parser.add_argument("--num_generations", type=count, default=8, help="episodes of each prompt")
    parser.add_argument("--per_device_train_batch_size", type=count, default=64, help="episodes")
    parser.add_argument("--learning_rate", type=float, default=1e-5)
    parser.add_argument("--output_dir", default="runs/trl")
    given = vars(parser.parse_args(arguments))
    on_gpu = torch.cuda.is_available()
    model, env_id, kwargs, episodes = map(given.pop, ("model", "env_id", "kwargs", "episodes"))
    try:
        config = GRPOConfig(logging_steps=1, report_to=[], bf16=on_gpu, use_cpu=not on_gpu, **given)
        Path(given["output_dir"]).mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        parser.error(one_line(error))
    try:
        renderer = load_renderer(model)
        renderer.first_prompt(make(env_id, kwargs)[0], model)  # images, where it reads text only
        trainer = GRPOTrainer(
            model=load_model(model),
            processing_class=renderer.processor or renderer.tokenizer,
            reward_funcs=episode_reward,
            args=config,
            train_dataset=prompt_dataset(env_id, episodes, kwargs=kwargs),
            rollout_func=DialogueRollouts(env_id, kwargs),
        )
        trainer.train()
    except InputError as error:
        parser.error(str(error))
    trainer.save_model()


if __name__ == "__main__":
    main()
