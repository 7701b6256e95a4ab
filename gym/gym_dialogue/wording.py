"""Makes a wording file, so that a checkpoint meets the wording that it was trained on.

`python -m gym_dialogue.wording PATH --task=gp_l --out=FILE`, and then `prompt_file=FILE` in every
command. PATH is what a user has: a clone of the released code, whose texts are read and never run,
or SFT data. A file serves its task in words and, where it has an image_prompt, in pictures.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from gym_dialogue.data import read_dialogues
from gym_dialogue.errors import InputError

PACKAGES = {"gp": "gym_cards", "virl": "gym_virl"}
"""The beginning of a task's name -> the package whose `clone` and `wording` modules know it."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; usage: {self.format_usage().partition(':')[2].strip()}")


def run(argv: Sequence[str] | None, task: str | None = None) -> None:
    """Run the command, with `task` where it is not asked for. It needs no more than the
    environments do, so it reads its flags itself.
    """
    parser = _Parser(
        "python -m gym_dialogue.wording",
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
    )
    parser.add_argument(
        "path",
        help="a clone of the released code, or SFT data: a JSON list in LLaVA form, or JSONL",
    )
    parser.add_argument(
        "--task", default=task, required=task is None, help="gp_l, gp_vl, virl_l or virl_vl"
    )
    parser.add_argument("--out", required=True, help="the wording file to write")
    parser.add_argument("--prompt", help="of a clone: the constant with the prompt in words")
    parser.add_argument("--image_prompt", help="of a clone: the constant for images")
    try:
        args = parser.parse_args(argv)
        if Path(args.out).exists():
            raise InputError(f"{args.out}: already exists; name another with --out, or remove it")
        data, lines = derive(args.path, args.task, args.prompt, args.image_prompt)
        _write(Path(args.out), data)
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    print("\n".join([f"{args.path} -> {args.out}", *lines]))


def derive(
    path: str | Path,
    task: str,
    prompt: str | None = None,
    image_prompt: str | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Return (content of a wording file, lines that say what it is from and how it reads). Raises
    InputError for a path that is neither a directory of source nor SFT data of the task.
    """
    package = PACKAGES.get(task.partition("_")[0])
    if package is None:
        raise InputError(f"task={task}: must be one of gp_l, gp_vl, virl_l, virl_vl")
    if Path(path).is_dir():
        module = importlib.import_module(f"{package}.clone")
        data, lines = module.derive_from_clone(path, prompt, image_prompt)
        if task.endswith("_vl") and "image_prompt" not in data:
            raise InputError(
                f"{path}: no prompt for images is found in its files: name the constant with "
                "--image_prompt"
            )
        return data, lines
    if prompt or image_prompt:
        raise InputError(f"{path}: is no directory; --prompt and --image_prompt are of a clone")
    if task.endswith("_vl"):
        raise InputError(
            f"{path}: SFT data gives a wording for words only: give a clone of the released code "
            f"for {task}"
        )
    module = importlib.import_module(f"{package}.wording")
    try:
        return module.derive_from_data(read_dialogues(path))
    except InputError as error:
        named = str(error).startswith("data file")
        raise InputError(str(error) if named else f"data file {path}: {error}") from error


def _write(path: Path, data: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run(argv)


if __name__ == "__main__":
    main()
