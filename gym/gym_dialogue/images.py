"""Images of messages: arrays, or files that are opened when they are needed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.PngImagePlugin

from gym_dialogue.errors import InputError

Image = np.ndarray | Path
"""uint8 (H, W, 3); several of one size, (N, H, W, 3); or a file that holds one, or several side by
side."""

MAX_PIXELS = 64_000_000
"""Of a file: more is taken for a mistake, or for an attempt to fill the memory."""


_COUNT = "images side by side"  # the key of a PNG file's text that says how many there are


def open_image(image: Image) -> np.ndarray:
    """Return the image as an array, uint8 (H, W, 3), several side by side. Raises InputError for a
    file that is missing, broken or huge.
    """
    if isinstance(image, Path):
        return _pixels(image, "RGB")
    return image if image.ndim == 3 else np.concatenate(list(image), axis=1)


def open_images(image: Image) -> list[np.ndarray]:
    """Return each as an array of its own, uint8 (H, W, 3). Raises as open_image does."""
    return np.split(open_image(image), count_images(image), axis=1)


def count_images(image: Image) -> int:
    """Return how many there are, of a file by its header. Raises InputError."""
    if not isinstance(image, Path):
        return 1 if image.ndim == 3 else len(image)
    with _opened(image) as file:
        count = str(file.info.get(_COUNT, ""))
        is_count = count.isascii() and count.isdigit() and int(count) > 0
        return int(count) if is_count and file.width % int(count) == 0 else 1


def open_rgba(path: Path) -> np.ndarray:
    """Return a file's image with its transparency, uint8 (H, W, 4). Raises as open_image does."""
    return _pixels(path, "RGBA")


def image_size(image: Image) -> tuple[int, int]:
    """Return (width, height) in pixels, of several side by side; a file's from its header alone.
    Raises InputError.
    """
    if not isinstance(image, Path):
        return image.shape[-2] * count_images(image), image.shape[-3]
    with _opened(image) as file:
        return file.size


def check_image(path: Path) -> None:
    """Raises InputError for a file that is no image of a size that can be used; looks at its header
    only.
    """
    _opened(path).close()


def save_image(path: Path, image: Image) -> None:
    """Write a PNG file, in a directory that is made if need be. Raises OSError where the disk does
    not take it, and as open_image does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png_bytes(image))


def png_bytes(image: Image) -> bytes:
    """Return the image as a PNG file's content, several side by side with a note of how many.
    Raises as open_image does.
    """
    buffer, about = io.BytesIO(), PIL.PngImagePlugin.PngInfo()
    if count_images(image) > 1:
        about.add_text(_COUNT, str(count_images(image)))
    drawn = PIL.Image.fromarray(open_image(image))
    drawn.save(buffer, "PNG", compress_level=1, pnginfo=about)
    return buffer.getvalue()


def _pixels(path: Path, mode: str) -> np.ndarray:
    with _opened(path) as file:
        try:
            return np.asarray(file.convert(mode))
        except (OSError, ValueError, SyntaxError) as error:
            raise InputError(f"image {path}: is broken: {error}") from error


def _opened(path: Path) -> PIL.Image.Image:
    try:
        file = PIL.Image.open(path)
    except PIL.UnidentifiedImageError as error:
        raise InputError(f"image {path}: is not an image file that can be read") from error
    except PIL.Image.DecompressionBombError as error:
        raise InputError(f"image {path}: is huge; at most {MAX_PIXELS:,} pixels") from error
    except OSError as error:
        raise InputError(f"image {path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # no name of a file, or a text chunk that inflates without end
        raise InputError(f"image {str(path)!r}: cannot be used: {error}") from error
    width, height = file.size
    if width * height > MAX_PIXELS:
        file.close()
        raise InputError(
            f"image {path}: is {width} x {height} pixels; at most {MAX_PIXELS:,} can be used"
        )
    return file
