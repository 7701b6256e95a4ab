"""Constructor arguments of the released environment: what of them is honoured here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gym_dialogue.errors import InputError

_KEYS = {"PANORAMA_DIR": "panorama_dir", "GPS_TO_PANO_PATH": "gps_to_pano_path"}
_WRITE = "write panorama_dir=DIRECTORY gps_to_pano_path=FILE"


def read_platform(config: Any) -> dict[str, str]:
    """Return `panorama_dir` and `gps_to_pano_path` of a released `platform_cfg`, whose section
    OFFLINE names both. Raises InputError where it does not.
    """
    if not isinstance(config, Mapping):
        raise InputError(f"platform_cfg={config!r:.60}: must be a mapping; or {_WRITE}")
    offline = next((value for key, value in _entries(config) if key == "OFFLINE"), None)
    if not isinstance(offline, Mapping):
        raise InputError(f"platform_cfg: has no section OFFLINE: {_WRITE} in its place")
    places = {_KEYS[key]: value for key, value in _entries(offline) if key in _KEYS}
    missing = [key for key, name in _KEYS.items() if not isinstance(places.get(name), str)]
    if missing:
        raise InputError(
            f"platform_cfg, OFFLINE: names no {' and no '.join(missing)}: {_WRITE} in its place"
        )
    return places


def refuse_released(**arguments: Any) -> None:
    """Raise InputError for an argument of the released environment that has no part in this one,
    unless it is None.
    """
    for name, value in arguments.items():
        if value is not None:
            raise InputError(f"{name}: is not used here; leave it out, and {_WRITE} for panoramas")


def _entries(config: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Return keys in capitals with their values, those of inner mappings after them."""
    for key, value in config.items():
        yield str(key).upper(), value
    for value in config.values():
        if isinstance(value, Mapping):
            yield from _entries(value)
