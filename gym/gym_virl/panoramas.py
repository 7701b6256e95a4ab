"""Panoramas as the released data has them: image files, and the table of where each was taken.

`python -m gym_virl.panoramas --table=gps_pano_mapping.pkl --out=gps_pano_mapping.json` makes a
plain file of the table, which is a pickle. A pickle from a download can run code as it is read;
here it is read by an unpickler that admits plain data only.
"""

from __future__ import annotations

import io
import json
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import PIL.Image

from gym_command.command import run_command
from gym_dialogue.checks import read_json, read_text
from gym_dialogue.errors import InputError
from gym_virl.geo import NearestPlace, Place, is_heading, is_place
from gym_virl.streetview import Panorama

FORMAT = "gym_virl panoramas 1"
IMAGE_QUALITY = 90  # of JPEG files that are written

_KEPT_BYTES = 512 * 2**20  # of decoded panoramas, of all cities and files together
_MAX_PIXELS = 16384 * 8192
_CODES = {"f8", "f4", "i8", "i4", "i2", "u8", "u4", "u2"}


class Panoramas(Protocol):
    """Panoramas by number, and where each was taken."""

    nearest: NearestPlace

    def load(self, number: int) -> Panorama:
        """Load a panorama. Raises InputError, naming the panorama, if it cannot be had."""


_Load = Callable[[int], Panorama]


class Kept:
    """The panoramas that were asked for last, of all loaders together, up to `limit` bytes."""

    def __init__(self, limit: int):
        self.limit, self.nbytes = limit, 0
        self._panoramas: OrderedDict[tuple[_Load, int], Panorama] = OrderedDict()

    def get(self, load: _Load, number: int) -> Panorama:
        """Return the panorama that `load` has under a number; loaded if it is not kept."""
        key = load, number
        if key not in self._panoramas:
            self._panoramas[key] = load(number)
            self.nbytes += self._panoramas[key].nbytes
        self._panoramas.move_to_end(key)
        while self.nbytes > self.limit and len(self._panoramas) > 1:
            self.nbytes -= self._panoramas.popitem(last=False)[1].nbytes
        return self._panoramas[key]


_KEPT = Kept(_KEPT_BYTES)


def kept(load: _Load) -> _Load:
    """Return the same loader, which keeps panoramas together with all others that do."""
    return partial(_KEPT.get, load)


def from_north(rotation: float) -> float:
    """Turn the `rotation` of released metadata into the heading of the middle column, and back.

    There it says how many degrees to the right of the image's left edge north is (as V-IRL cuts
    its views, arXiv 2402.03310), so the middle faces 180 degrees less that.
    """
    return (180 - rotation) % 360


class PanoramaFiles:
    """The panoramas of a directory, ID.jpg and ID.metadata.json, where the table places them."""

    def __init__(self, directory: str | Path, table: str | Path):
        self.directory = Path(directory)
        if not self.directory.is_dir():
            raise InputError(f"panorama_dir {directory}: is not a directory")
        places = read_table(table)
        self.ids = list(places.values())
        self.nearest = NearestPlace(list(places))
        self.load = kept(self._read)

    def _read(self, number: int) -> Panorama:
        """Read a file. Raises InputError, naming the file, if it is missing or damaged."""
        name = self.ids[number]
        lat, lng = self.nearest.places[number]
        where = f"panorama {name} at ({lat}, {lng})"
        path = self.directory / f"{name}.jpg"
        try:
            pixels = decode_image(path.read_bytes())
        except OSError as error:  # of the file, or Pillow's about its content
            raise InputError(f"{where}: {path}: {error.strerror or error}") from error
        except ValueError as error:
            raise InputError(f"{where}: {path}: {error}") from error
        about = self.directory / f"{name}.metadata.json"
        content = read_json(about, f"{where}: {about}")
        rotation: Any = content.get("rotation") if isinstance(content, dict) else None
        if not is_heading(rotation):
            raise InputError(f"{where}: {about}: has no number of degrees under the key rotation")
        return Panorama(pixels, from_north(rotation))


def decode_image(data: bytes) -> np.ndarray:
    """Return uint8 (H, W, 3) of a JPEG file. Raises OSError for one that is damaged, or not all
    there, and ValueError for bytes that are none, and one that is too large.
    """
    try:
        with PIL.Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels: too large for a panorama")
            return np.asarray(image.convert("RGB"))
    except PIL.UnidentifiedImageError as error:
        raise ValueError("is no JPEG image") from error
    except PIL.Image.DecompressionBombError as error:
        raise ValueError("too large for a panorama") from error


def encode_image(pixels: np.ndarray) -> bytes:
    """Return a JPEG file of uint8 (H, W, 3)."""
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "JPEG", quality=IMAGE_QUALITY, subsampling=0)
    return file.getvalue()


def read_table(path: str | Path) -> dict[Place, str]:
    """Return panorama ids by place, from `gps_pano_mapping.pkl` or a file made of it (.json).

    Raises InputError for a file that cannot be read, a pickle of anything but plain data (naming
    the class), and places that are none.
    """
    where = f"gps_to_pano_path {path}"
    try:
        if Path(path).suffix == ".json":
            table = _from_json(json.loads(read_text(path)), where)
        else:
            with open(path, "rb") as file:
                table = _PlainUnpickler(file).load()
    except OSError as error:
        raise InputError(f"{where}: cannot be read: {error.strerror}") from error
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except (
        pickle.UnpicklingError,
        ValueError,
        TypeError,
        EOFError,
        OverflowError,
        IndexError,
        KeyError,
        AttributeError,
        RecursionError,
        MemoryError,
    ) as error:  # what a damaged pickle, or JSON, can bring about
        reason = str(error) or type(error).__name__
        raise InputError(f"{where}: is damaged or no such table: {reason}") from error
    return check_table(table, where)


def check_table(table: Any, where: str) -> dict[Place, str]:
    """Return the table, places as floats. Raises InputError for anything but {(lat, lng): id}."""
    if not isinstance(table, Mapping) or not table:
        raise InputError(f"{where}: must be a table of places with at least one, not {table!r:.60}")
    for place, name in table.items():
        if not is_place(place):
            raise InputError(f"{where}: {place!r} is no place: latitude or longitude out of range")
        if not isinstance(name, str) or "/" in name or "\\" in name or name in ("", ".", ".."):
            raise InputError(f"{where}: {name!r} at {place} is no panorama id")
    return {(float(lat), float(lng)): name for (lat, lng), name in table.items()}


def write_table(path: Path, table: Mapping[Place, str]) -> None:
    """Write panorama ids by place: as a pickle (.pkl), as the released data has it, or as JSON."""
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(dict(table)))
    else:
        rows = [[*place, name] for place, name in table.items()]
        data = {"format": FORMAT, "panoramas": rows}
        path.write_text(json.dumps(data) + "\n", encoding="utf-8")


def _from_json(data: Any, where: str) -> dict[Any, Any]:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise InputError(f"key format: must be {FORMAT!r}")
    return {(lat, lng): name for lat, lng, name in data["panoramas"]}


class _PlainUnpickler(pickle.Unpickler):
    """Admits containers, texts, numbers and numpy's scalars; refuses any other class by name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "dtype"):
            return _NumberType
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "scalar":
            return _number
        raise InputError(f"refused: the pickle asks for {module}.{name}; only plain data is read")

    def persistent_load(self, pid: Any) -> Any:
        raise InputError("refused: the pickle refers to what is outside of it")


class _NumberType:
    """Stands in for numpy.dtype in a pickle: a number's code and byte order, nothing else."""

    def __init__(self, code: str, *rest: object):
        if code not in _CODES:
            raise InputError(f"refused: the pickle holds numpy's type {code!r}")
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        if state[1] in "<>=|":
            self.order = state[1]


def _number(kind: _NumberType, data: bytes) -> int | float:
    """Stand in for numpy's maker of scalars in a pickle."""
    return np.frombuffer(data, np.dtype(kind.order.replace("|", "=") + kind.code))[0].item()


@dataclass
class Config:
    """Turn the table of panoramas, a pickle, into a plain file that is safe to pass on."""

    table: str = "gps_pano_mapping.pkl"
    """The table as downloaded."""
    out: str = "gps_pano_mapping.json"
    """The file to write: JSON."""


def main(config: Config) -> None:
    """Run the command."""
    table = read_table(config.table)
    if Path(config.out).suffix != ".json":
        raise InputError(f"out {config.out}: must end in .json")
    try:
        write_table(Path(config.out), table)
    except OSError as error:
        raise InputError(f"out {config.out}: cannot be written: {error.strerror}") from error
    print(f"{config.out}: {len(table)} panoramas")


if __name__ == "__main__":
    run_command(main, Config)
