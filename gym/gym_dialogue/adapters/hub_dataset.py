"""Hugging Face datasets: dealt puzzles and dialogues that solve them, with a card.

    python -m gym_dialogue.adapters.hub_dataset --splits train heldout --out DIRECTORY

The directory is what a data set on the hub is: `datasets.load_dataset(DIRECTORY, "dialogues")`.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image

from gym_command.hub import check_repo_id, push_directory
from gym_dialogue.adapters.episodes import check_seeds, json_object, make
from gym_dialogue.adapters.hub_card import format_card
from gym_dialogue.adapters.library import library
from gym_dialogue.env import shows_images
from gym_dialogue.errors import InputError, one_line
from gym_dialogue.images import open_images
from gym_dialogue.messages import Message
from gym_dialogue.policy import NoisyOraclePolicy
from gym_dialogue.rollout import Episode, Task, rollout

with library("hub_dataset"):
    from datasets import Dataset, Features, Image, List, Value

_TEXT = {"role": Value("string"), "content": Value("string")}
_COLUMNS = {
    "puzzles": {"prompt": List(_TEXT), "answer": Value("string")},
    "dialogues": {"messages": List(_TEXT | {"trained": Value("bool")})},
}


def to_datasets(episodes: Sequence[Episode], has_images: bool) -> dict[str, Dataset]:
    """Return the dialogues of played episodes that came to a right reply as rows of `puzzles` and
    `dialogues`, with a column `images` if there are any.
    """
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _COLUMNS}
    for episode in episodes:
        for number, dialogue in enumerate(episode.dialogues):
            turns = [episode.turns[index] for index in episode.turns_of(number)]
            if not turns or not turns[-1].is_right:
                continue
            about: dict[str, Any] = {"puzzle": episode.puzzle, "env_seed": episode.task.env_seed}
            if has_images:
                shown = [m.image for m in dialogue.messages if m.image is not None]
                images = [image for shown_by in shown for image in open_images(shown_by)]
                about["images"] = [PIL.Image.fromarray(image) for image in images]
            is_right = iter(turn.is_right for turn in turns)
            messages = [
                _text(m) | {"trained": m.role == "assistant" and next(is_right)}
                for m in dialogue.messages
            ]
            answer = {"prompt": [_text(dialogue.messages[0])], "answer": turns[-1].reply.text}
            rows["puzzles"].append(about | answer)
            rows["dialogues"].append(about | {"messages": messages})
    common: dict[str, Any] = {"puzzle": Value("string"), "env_seed": Value("int64")}
    common |= {"images": List(Image())} if has_images else {}
    if not rows["dialogues"]:
        raise InputError(
            "no dialogue came to a right reply: lower error_rate, or raise verify_iter"
        )
    return {
        name: Dataset.from_list(rows[name], features=Features(common | columns))
        for name, columns in _COLUMNS.items()
    }


def _text(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.text}


def write(
    out: Path, env_id: str, kwargs: Mapping[str, Any], splits: Sequence[str], **how: Any
) -> None:
    """Write Parquet files and a card; `how` is `episodes` a split, `seed` and `error_rate`. A split
    is a value of the environment's argument of that name; without any, all is `train`. Raises
    InputError for what the environment does not take, and a directory that holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"out={out}: holds something already; name another directory")
    tasks = [Task(seed, (seed,)) for seed in check_seeds(how["episodes"], how["seed"])]
    policy = NoisyOraclePolicy(how["error_rate"])
    given = {split: {**kwargs, "split": split} for split in splits} or {"train": {**kwargs}}
    envs = {split: make(env_id, arguments)[0] for split, arguments in given.items()}
    counts = ""
    with tempfile.TemporaryDirectory() as place:
        partial = Path(place) / "data"
        for split, env in envs.items():
            by_name = to_datasets(rollout([env], policy, tasks), shows_images(env))
            for name, rows in by_name.items():
                (partial / name).mkdir(parents=True, exist_ok=True)
                rows.to_parquet(partial / name / f"{split}.parquet")
            counts += f"| {split} | {' | '.join(str(len(rows)) for rows in by_name.values())} |\n"
        card = format_card(list(_COLUMNS), list(envs), env_id=env_id, kwargs=kwargs, **how)
        (partial / "README.md").write_text(card + counts)
        shutil.copytree(partial, out, dirs_exist_ok=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write oracle dialogues as a data set, and send it to the hub if asked to."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--env_id", default="gym_cards/GeneralPoint-oneline-v0")
    parser.add_argument("--kwargs", type=json_object, default={}, help="of the environment")
    parser.add_argument("--splits", nargs="*", default=[], help="values of its argument split")
    parser.add_argument("--episodes", type=int, default=1000, help="of each split")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode")
    parser.add_argument("--error_rate", type=float, default=0.0, help="of the oracle")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--push_to_hub", metavar="OWNER/NAME", help="private where it is made")
    given = vars(parser.parse_args(arguments))
    repo_id = given.pop("push_to_hub")
    try:
        if repo_id:
            check_repo_id(repo_id)
        write(**given)
        print(f"Written to {given['out']}")
        if repo_id:
            print(f"Sent to {push_directory(given['out'], repo_id, 'dataset')}")
    except (InputError, OSError) as error:
        parser.error(one_line(error))


if __name__ == "__main__":
    main()
