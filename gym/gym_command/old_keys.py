"""Keys of a configuration that have been renamed: files and flags with the old ones are still read.

A configuration class names them in `OLD_KEYS`, {old: new}, top-level keys only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def rename_settings(config_class: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as they are read from a file, under their present keys."""
    old = _old_keys(config_class)
    return {old.get(key, key): value for key, value in settings.items()}


def rename_arguments(config_class: type, argv: Sequence[str]) -> list[str]:
    """Return command-line arguments with the flags and the configuration files as they are called
    now. A file with an old key is replaced by its content.
    """
    old = _old_keys(config_class)
    return list(_renamed(config_class, argv)) if old else list(argv)


def _renamed(config_class: type, argv: Sequence[str]) -> Iterator[str]:
    old = _old_keys(config_class)
    is_file = False  # whether the argument before was --config alone
    for argument in argv:
        flag, equals, value = argument.partition("=")
        if is_file:
            yield _renamed_file(config_class, argument)
        elif flag == "--config" and equals:
            yield f"--config={_renamed_file(config_class, value)}"
        elif flag.startswith("--") and flag[2:] in old:
            yield f"--{old[flag[2:]]}{equals}{value}"
        else:
            yield argument
        is_file = argument == "--config"


def _renamed_file(config_class: type, file: str) -> str:
    """Return the name of a configuration file, or its content where that has an old key."""
    import yaml

    try:
        settings = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):  # the parser reports it
        return file
    if not isinstance(settings, dict) or settings.keys().isdisjoint(_old_keys(config_class)):
        return file
    return yaml.safe_dump(rename_settings(config_class, settings), sort_keys=False)


def _old_keys(config_class: type) -> Mapping[str, str]:
    return getattr(config_class, "OLD_KEYS", {})
