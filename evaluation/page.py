"""A report as one HTML page that holds all it shows.

The page (report.html beside this file is its template) loads nothing: styles, script, figures and
the images of dialogues are in it. What models and environments wrote is only ever shown as text.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import PIL.Image

from evaluation.replay import Comparison, Played, encode_image
from evaluation.suites import SHIFT_TITLES
from gym_dialogue import InputError

MAX_IMAGE_BYTES = 3_000_000
"""Of all images of dialogues in a page together; beyond it large ones are shrunk."""

SMALL_SIDE = 128
"""Pixels: an image up to here is kept as it is, for little would be saved and much not be seen."""


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading."""

    caption: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Figure:
    """A picture, PNG or SVG."""

    caption: str
    file: Path


@dataclass(frozen=True)
class Report:
    """What a page says, in its order: the claim, what it rests on, and what there is to look at."""

    title: str
    claims: list[str]
    """Sentences with their numbers. The first is the one to remember."""
    notes: list[str] = field(default_factory=list)
    """Sizes, and how the numbers were made."""
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    dialogues: list[Comparison] = field(default_factory=list)


def write_report(path: str | Path, report: Report) -> None:
    """Write the page.

    Raises InputError for a figure that cannot be read, and OSError where the page cannot be
    written.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_name("report.html").read_text("utf-8"))
    figures = [(figure.caption, _figure_uri(figure.file)) for figure in report.figures]
    disagreeing = sum(comparison.disagrees for comparison in report.dialogues)
    notes = list(report.notes)
    if disagreeing:
        notes.append(disagreement(disagreeing, len(report.dialogues)))
    page = template.render(
        report=report, notes=notes, figures=figures, data=_browser_data(report.dialogues)
    )
    Path(path).write_text(page, encoding="utf-8", errors="replace")


def disagreement(count: int, of: int) -> str:
    """Return the line that says that episodes came out otherwise when they were played again."""
    return (
        f"{count} of {of} dialogues, played again, came out otherwise than recorded (another "
        "version, or other settings, of the environment): they are shown without prompts and images"
    )


def _figure_uri(file: Path) -> str:
    kinds = {".png": "image/png", ".svg": "image/svg+xml"}
    if Path(file).suffix not in kinds:
        raise InputError(f"figure {file}: must be a .png or .svg file")
    try:
        return _data_uri(Path(file).read_bytes(), kinds[Path(file).suffix])
    except OSError as error:
        raise InputError(f"figure {file}: cannot be read: {error.strerror}") from error


def _data_uri(content: bytes, kind: str | None = None) -> str:
    kind = kind or ("image/png" if content.startswith(b"\x89PNG") else "image/jpeg")
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _browser_data(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Return what the page's script reads. Texts of prompts and images are numbered: one that many
    dialogues share is there once.
    """
    texts: dict[str, int] = {}
    images: dict[bytes, int] = {}

    def shown(played: Played) -> dict[str, Any]:
        dialogues = []
        for dialogue in played.dialogues:
            prompt: dict[str, int] = {}
            replies = []
            for message in dialogue:
                if message.role == "user":
                    prompt["text"] = texts.setdefault(message.text, len(texts))
                    if message.image is not None:
                        prompt["image"] = images.setdefault(message.image, len(images))
                else:
                    keys = ("text", "reward", "outcomes", "feedback", "is_right", "recognized")
                    replies.append({key: getattr(message, key) for key in keys})
            dialogues.append({"prompt": prompt, "replies": replies})
        return {
            "won": played.is_success,
            "reward": round(played.total_reward, 5),
            "dialogues": dialogues,
        }

    labels = dict.fromkeys(label for c in comparisons for label in c.played)
    return {
        "labels": list(labels),
        "shifts": SHIFT_TITLES,
        "comparisons": [
            {key: getattr(c, key) for key in ("suite", "title", "shift", "decoding", "number")}
            | {"puzzle": c.puzzle, "disagrees": c.disagrees}
            | {"played": {label: shown(played) for label, played in c.played.items()}}
            for c in comparisons
        ],
        "texts": list(texts),
        "images": [_data_uri(image) for image in _fitting(list(images))],
    }


def _fitting(images: list[bytes]) -> list[bytes]:
    """Return the images; large ones shrunk alike if together they take more than a page should."""
    total = sum(map(len, images))
    if total <= MAX_IMAGE_BYTES:
        return images
    scale = (MAX_IMAGE_BYTES / total) ** 0.5
    return [_shrunk(image, scale) for image in images]


def _shrunk(image: bytes, scale: float) -> bytes:
    with PIL.Image.open(io.BytesIO(image)) as picture:
        side = max(picture.size)
        if side <= SMALL_SIDE:
            return image
        return encode_image(np.asarray(picture.convert("RGB")), max(SMALL_SIDE, int(side * scale)))
