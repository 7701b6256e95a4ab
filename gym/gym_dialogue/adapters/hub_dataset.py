"""Hugging Face datasets: dealt puzzles and dialogues that solve them, with a card.

    python -m gym_dialogue.adapters.hub_dataset --splits train heldout --out DIRECTORY

The directory is what a data set on the hub is: `datasets.load_dataset(DIRECTORY, "dialogues")`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image

from gym_command.hub import push_directory
from gym_dialogue.adapters.library import library
from gym_dialogue.env import shows_images
from gym_dialogue.errors import InputError
from gym_dialogue.images import open_images
from gym_dialogue.make import EnvConfig, make_envs
from gym_dialogue.messages import Message
from gym_dialogue.policy import NoisyOraclePolicy
from gym_dialogue.rollout import Episode, Task, rollout

with library("hub_dataset"):
    from datasets import Dataset, Features, Image, List, Value
    from huggingface_hub import DatasetCardData

_TEXT = {"role": Value("string"), "content": Value("string")}
_COLUMNS = {
    "puzzles": {"prompt": List(_TEXT), "answer": Value("string")},
    "dialogues": {"messages": List(_TEXT | {"trained": Value("bool")})},
}
_CARD = """
# Dialogues with a verifier: {env_id}

Episodes of the environment `{env_id}` with the arguments `{kwargs}`, seeded from {seed} on.

- `puzzles`: a row for each position, with its prompt and an answer that the verifier accepts.
- `dialogues`: a row for each dialogue of an oracle that errs in {error_rate:.0%} of its replies. A
  reply with `trained: false` is a mistake, context for the correction after it, without a loss.

`puzzle` is the same in all rows on the same cards or route: split and cluster by it. `env_seed`
deals the episode again (`env.reset(seed=env_seed)`).

| split | puzzles | dialogues |
|---|---|---|
"""


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
    if out.exists() and any(out.iterdir()):
        raise InputError(f"out={out}: holds something already; name another directory")
    tasks = [Task(seed, (seed,)) for seed in range(how["seed"], how["seed"] + how["episodes"])]
    policy, counts = NoisyOraclePolicy(how["error_rate"]), ""
    for split in splits or ["train"]:
        given = dict(kwargs) | ({"split": split} if splits else {})
        envs = make_envs(EnvConfig(env_id, given), 1)
        by_name = to_datasets(rollout(envs, policy, tasks), shows_images(envs[0]))
        for name, rows in by_name.items():
            file = out / name / f"{split}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            rows.to_parquet(file)
        counts += f"| {split} | {' | '.join(str(len(rows)) for rows in by_name.values())} |\n"
    configs = [
        {
            "config_name": name,
            "data_files": [
                {"split": split, "path": f"{name}/{split}.parquet"} for split in splits or ["train"]
            ],
        }
        for name in _COLUMNS
    ]
    data = DatasetCardData(
        license="apache-2.0", language="en", configs=configs, tags=["verifiable", "multi-turn"]
    )
    text = _CARD.format(env_id=env_id, kwargs=json.dumps(kwargs), **how)
    (out / "README.md").write_text(f"---\n{data.to_yaml()}\n---\n{text}{counts}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write oracle dialogues as a data set, and send it to the hub if asked to."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--env_id", default="gym_cards/GeneralPoint-oneline-v0")
    parser.add_argument("--kwargs", type=json.loads, default={}, help="of the environment, as JSON")
    parser.add_argument("--splits", nargs="*", default=[], help="values of its argument split")
    parser.add_argument("--episodes", type=int, default=1000, help="of each split")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode")
    parser.add_argument("--error_rate", type=float, default=0.0, help="of the oracle")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--push_to_hub", metavar="OWNER/NAME", help="private where it is made")
    given = vars(parser.parse_args(arguments))
    repo_id = given.pop("push_to_hub")
    try:
        write(**given)
        print(f"Written to {given['out']}")
        if repo_id:
            print(f"Sent to {push_directory(given['out'], repo_id, 'dataset')}")
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
