"""What all commands share: reading a configuration, and reporting bad input."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

from gym_command.old_keys import rename_arguments
from gym_command.ranges import check_ranges
from gym_dialogue.errors import InputError, one_line

Config = TypeVar("Config")

_REFUSED = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO),
    *(errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG),
)


def parse_config(config_class: type[Config], argv: list[str] | None = None) -> Config:
    """Read a configuration from `--config FILE` (YAML, can be repeated) and `--key=value` flags.

    Nested keys are dotted (`--env.kwargs.verify_iter=3`); later flags win over earlier ones and
    over the files before them. A switch may stand alone (`--resume` is `--resume=true`), a nested
    one too. Keys in the class's `OLD_KEYS` are read under their present names.

    Raises InputError for unknown keys, and values of the wrong type or out of their range.
    """
    from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        exit_on_error=False,
        allow_abbrev=False,
        description=(config_class.__doc__ or "").splitlines()[0],
    )
    parser.add_argument("--config", action="config", help="A YAML file of these options.")
    parser.add_class_arguments(config_class, None, as_group=False)
    argv = rename_arguments(config_class, sys.argv[1:] if argv is None else argv)
    switches = set(_switches(config_class))
    argv = [
        f"{argument}=true" if argument in switches and after[:1] in ("", "-") else argument
        for argument, after in zip(argv, [*argv[1:], ""], strict=False)
    ]
    try:
        parsed = parser.parse_args(argv)
        parsed.pop("config", None)
        config = config_class(**vars(parser.instantiate(parsed)))
    except ArgumentError as error:
        raise InputError(f"configuration: {one_line(error)}; --help lists every key") from error
    check_ranges(config)
    return config


def _switches(config_class: type, prefix: str = "--") -> Iterator[str]:
    """Yield the flags of boolean fields, including those of nested dataclasses."""
    for name, hint in get_type_hints(config_class).items():
        if hint is bool:
            yield prefix + name
        for part in (hint, *get_args(hint)):
            if isinstance(part, type) and is_dataclass(part):
                yield from _switches(part, f"{prefix}{name}.")


def run_command(main: Callable[[Config], Any], config_class: type[Config]) -> None:
    """Read the configuration and run `main(config)`. Bad input ends in one line and exit code 2.

    Of several processes, only rank 0 prints, or whichever alone met the bad input. What a file
    system refuses (a full disk, a directory in place of a file) counts as bad input wherever it
    occurs. Ctrl-C ends in one line and exit code 130.
    """
    _quiet_libraries()
    is_first = os.environ.get("RANK", "0") == "0"
    try:
        with contextlib.ExitStack() as stack:
            if not is_first:
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            main(parse_config(config_class))
    except (InputError, OSError) as error:
        if isinstance(error, OSError):
            if error.errno not in _REFUSED:
                raise
            line = f"{error.filename or 'the disk'}: cannot be used: {error.strerror}"
        else:
            line = one_line(error)
        if not is_first:
            time.sleep(4)  # if rank 0 has reported it, the launcher ends this process meanwhile
            line = f"rank {os.environ['RANK']}: {line}"
        if _may_report():
            _report(f"error: {line}")
        sys.exit(2)
    except Exception:
        if is_first or _may_report():
            raise
        sys.exit(2)  # a consequence: another process has reported the cause and exited
    except KeyboardInterrupt:
        if _may_report():
            _report("Interrupted")
        sys.exit(128 + signal.SIGINT)


def _report(line: str) -> None:
    """Print a line on standard error, clear of progress bars."""
    progress = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if progress is None:
        print(line, file=sys.stderr)
    else:
        progress.write(line, file=sys.stderr)


def _may_report() -> bool:
    """Claim the report of what went wrong; return False if another process of this launch has."""
    if "BAD_INPUT_TOKEN" not in os.environ:
        return True
    try:
        return bool(os.read(int(os.environ["BAD_INPUT_TOKEN"]), 1))
    except BlockingIOError:
        return False


def _quiet_libraries() -> None:
    """Silence what a user cannot act on: warnings about missing hardware, bars of single files."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    for text in (
        "torch.distributed.* is deprecated",
        "is_gradient_checkpointing",
        "OMP_NUM_THREADS",
    ):
        warnings.filterwarnings("ignore", message=f".*{text}.*")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    try:
        from transformers.utils import logging as transformers_logging
    except ImportError:
        return
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
