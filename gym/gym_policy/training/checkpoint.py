"""Checkpoints that are whole if they can be seen, whatever trains: written under another name, with
SHA256SUMS, which lists every file, and checked when a run goes on.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from gym_command.checkpoints import MODEL_FILES, TRAINING_DIR
from gym_command.files import to_disk, write_atomically
from gym_command.run_dir import RunDir
from gym_dialogue.errors import InputError

SUMS_FILE = "SHA256SUMS"
_TORCH_WRITER = ("PytorchStreamWriter", "inline_container", "iostream")


@contextmanager
def writing(final: Path) -> Iterator[Path]:
    """Provide the directory in which a checkpoint is put together, until `publish` names it.

    Raises InputError if the disk does not take it; what was put together is removed then, and
    earlier checkpoints are untouched.
    """
    partial = final.with_name(f"{final.name}.partial")
    try:
        yield partial
    except InputError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        known = not isinstance(error, RuntimeError)
        if not known and not any(word in str(error) for word in _TORCH_WRITER):
            raise
        shutil.rmtree(partial, ignore_errors=True)
        reason = getattr(error, "strerror", None) or (
            str(error) if known else "the disk does not take all of it"
        )
        raise InputError(
            f"checkpoint {final}: cannot be written: {reason}; free some space (earlier "
            "checkpoints are whole: go on with --resume), or name another --run_dir"
        ) from error


def begin(partial: Path) -> None:
    """Make the directory of a checkpoint that is being written, empty but for that of its training
    state.
    """
    shutil.rmtree(partial, ignore_errors=True)
    (partial / TRAINING_DIR).mkdir(parents=True)


def publish(partial: Path, final: Path) -> None:
    """Write SHA256SUMS, in the form of the tool of that name, see that all is on the disk, and give
    the checkpoint its name.
    """
    with suppress(OSError):  # there may be no training state
        (partial / TRAINING_DIR).rmdir()
    sums = {}
    for file in sorted(file for file in partial.rglob("*") if file.is_file()):
        sums[file.relative_to(partial).as_posix()] = _sha256(file)
        to_disk(file)
    write_atomically(partial / SUMS_FILE, _format(sums))
    if final.exists():
        shutil.rmtree(final)
    os.replace(partial, final)
    to_disk(final.parent)


def newest_whole(
    run_dir: str | Path, fault: Callable[[Path], str | None]
) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint without a fault, and a line on each newer one."""
    warnings = []
    for directory in reversed(RunDir(run_dir).saved_checkpoints()):
        problem = fault(directory)
        if problem is None:
            return directory, warnings
        warnings.append(f"checkpoint {directory}: {problem}; going back to the one before")
    return None, warnings


def damage(checkpoint: Path) -> str | None:
    """Return what is not as it was written, or None."""
    try:
        sums = listed(checkpoint)
        for name, expected in sums.items():
            if _sha256(checkpoint / name) != expected:
                return f"{name} is damaged (its SHA-256 is not that in {SUMS_FILE})"
        for file in checkpoint.iterdir():
            is_model = file.name in MODEL_FILES or file.match("*model*.safetensors")
            if is_model and file.name not in sums:
                return f"{SUMS_FILE} is damaged: it does not list {file.name}"
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"
    return None


def listed(checkpoint: Path) -> dict[str, str]:
    """Return what SHA256SUMS lists, by path in the checkpoint. Raises OSError and ValueError."""
    lines = (checkpoint / SUMS_FILE).read_text().splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def take_out(checkpoint: Path, names: Collection[str]) -> None:
    """Remove files from a checkpoint, which is whole at any moment: what is not listed is not
    missed. One without a list that can be read is left as it is.
    """
    try:
        kept = {name: digest for name, digest in listed(checkpoint).items() if name not in names}
    except (OSError, ValueError):
        return
    if names:
        write_atomically(checkpoint / SUMS_FILE, _format(kept))
    for name in names:
        (checkpoint / name).unlink()


def _format(sums: dict[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in sums.items())


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
