"""Messages in the form of the chat completions API, which several frameworks take too."""

from __future__ import annotations

import base64
from typing import Any

from gym_dialogue.images import Image, open_images, png_bytes
from gym_dialogue.messages import Message


def data_url(image: Image) -> str:
    """Return an image as a PNG in a data URL. Raises InputError for a file that is no image."""
    return f"data:image/png;base64,{base64.b64encode(png_bytes(image)).decode()}"


def chat_message(message: Message, text: str | None = None) -> dict[str, Any]:
    """Return a message as {role, content}, with another text if one is given; images stand before
    the text. Raises InputError for an image that cannot be read.
    """
    text = message.text if text is None else text
    if message.image is None:
        return {"role": message.role, "content": text}
    images = [
        {"type": "image_url", "image_url": {"url": data_url(image)}}
        for image in open_images(message.image)
    ]
    return {"role": message.role, "content": [*images, {"type": "text", "text": text}]}
