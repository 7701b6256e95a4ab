"""Lay the user's own card pictures in one row, as the released code does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from gym_cards.rules import RANKS
from gym_dialogue.errors import InputError
from gym_dialogue.images import check_image, open_rgba

_LETTERS = {"clubs": "C", "diamonds": "D", "hearts": "H", "spades": "S"}
_FILL, _STEP, _MARGIN = 0.9, 1.1, 5  # share of its part that a card takes; card widths; pixels


def lay_pictures(
    ranks: Sequence[str],
    suits: Sequence[str],
    resolution: int,
    table: tuple[int, int, int],
    directory: str | Path,
) -> np.ndarray:
    """Return a hand in one row on a table of a colour: uint8 (resolution, resolution, 3), RGB.

    A card is 0.9 of its share of the width, and 7/5 of that high; the row begins 5 pixels from the
    left, with cards 1.1 widths apart, and stands in the middle. Raises InputError for a picture
    that is missing or damaged.
    """
    width = int(resolution / len(ranks) * _FILL)
    height = int(width * 7 / 5)
    image = Image.new("RGB", (resolution, resolution), table)
    for index, (rank, suit) in enumerate(zip(ranks, suits, strict=True)):
        card = _picture(str(directory), rank, suit, width, height)
        image.paste(card, (_MARGIN + int(index * width * _STEP), (resolution - height) // 2), card)
    return np.array(image)


@lru_cache(maxsize=4)
def check_pictures(directory: str | Path) -> None:
    """Raise InputError unless there is an image file for each of the 52 cards. Only headers are
    read.
    """
    if not Path(directory).is_dir():
        raise InputError(f"card_dir {directory}: is not a directory")
    for suit in _LETTERS:
        for rank in RANKS:
            check_image(_file_of(directory, rank, suit))


def _file_of(directory: str | Path, rank: str, suit: str) -> Path:
    """Return the file of a card: C, D, H or S, then the rank, `10` also as `T` (`SA.png`)."""
    names = [f"{_LETTERS[suit]}{form}.png" for form in ([rank, "T"] if rank == "10" else [rank])]
    for name in names:
        file = Path(directory) / name
        if file.is_file():
            return file
    raise InputError(f"card_dir {directory}: has no {' or '.join(names)}, the {rank} of {suit}")


@lru_cache(maxsize=2 * 52)
def _picture(directory: str, rank: str, suit: str, width: int, height: int) -> Image.Image:
    pixels = open_rgba(_file_of(directory, rank, suit))
    return Image.fromarray(pixels).resize((width, height))
