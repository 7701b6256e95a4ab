"""Says so where a checkpoint was trained on another wording of the task than the one in use."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from gym_command.run_dir import RunDir
from gym_dialogue.released import RELEASED_DIR, is_released

_RELEASED = re.compile(r"(?:GP|VIRL)-(?:L|VL)-(?:Init|RL\d+)", re.IGNORECASE)


def settings_of(path: str) -> dict[str, Any]:
    """Return the settings of the run that a path is, or lies in; empty if it is none."""
    for directory in (Path(path), *Path(path).parents[:2]):
        settings = RunDir(directory).settings()
        if settings:
            return settings
    return {}


def wording_note(checkpoint: str, prompt_file: str | None) -> str | None:
    """Return one line about a checkpoint (a directory, a run or a hub name) that was trained on
    another wording than that of `prompt_file` (None: the environment's own); None where nothing is
    known to differ: a released checkpoint is known by its name, one of this project by its run.
    """
    settings = settings_of(checkpoint)
    name = None if settings else _released_name(checkpoint)
    if name is not None and prompt_file is None:
        return (
            f"note: {checkpoint} was trained on the released wording; make it with "
            f"`{_command(name)}` and give --prompt_file=wording.json"
        )
    before, data = settings.get("prompt_file"), settings.get("data_file")
    if before is None and data is not None and is_released(data) and prompt_file is None:
        return (
            f"note: {checkpoint} was trained on {data}; make its wording with "
            f"`python -m gym_dialogue.wording {data} --task={_task(data) or 'TASK'} "
            "--out wording.json` and "
            "give --prompt_file=wording.json"
        )
    if not settings or _content(before) == _content(prompt_file):
        return None
    if before is None and data is not None:  # learned from: its wording is not known to differ
        return None
    if before is None:
        return f"note: {checkpoint} was trained on this project's own wording, not {prompt_file}"
    instead = "the project's own" if prompt_file is None else prompt_file
    return (
        f"note: {checkpoint} was trained on the wording {before}, and {instead} is in use; give "
        f"--prompt_file={before} for the same"
    )


def _released_name(checkpoint: str) -> str | None:
    """Return the name of a released checkpoint in a hub name, or in a folder's own path: the last
    one.
    """
    for part in reversed(Path(checkpoint).parts):
        name = part.rpartition("--")[2]  # models--OWNER--NAME, as in the hub's cache
        if _RELEASED.fullmatch(name):
            return name
    return None


def _task(name: str) -> str | None:
    """Return the task that a name or a path tells last: GP-VL-Init is of gp_vl; None if none."""
    named = re.findall(r"(?<![a-z])(gp|virl)[-_](vl|l)(?![a-z])", name.lower())
    return "_".join(named[-1]) if named else None


def _command(name: str) -> str:
    """Return what makes the wording: from the data; for images from the released code, as none
    came.
    """
    task = _task(name)
    kind, _, sense = task.partition("_")
    data = RELEASED_DIR / "SFT_Data" / f"{kind}-l" / "data.json"
    source = data if sense == "l" else "CLONE_OF_SFTvsRL"
    return f"python -m gym_dialogue.wording {source} --task={task} --out wording.json"


def _content(prompt_file: str | None) -> Any:
    """Return what a wording file says, however it is written; its name, where it cannot be read."""
    if prompt_file is None:
        return None
    try:
        return json.loads(Path(prompt_file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return prompt_file
