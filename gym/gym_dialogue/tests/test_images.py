"""Several images in the place of one: arrays, files, and messages."""

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest

from gym_dialogue import Message
from gym_dialogue.chat import chat_message
from gym_dialogue.images import count_images, image_size, open_image, open_images, save_image


def draw(count, seed=0):
    shape = (count, 6, 4, 3) if count > 1 else (6, 4, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("count", [1, 4])
def test_images_are_read_from_a_file_as_they_were_saved(count, tmp_path):
    image, file = draw(count), tmp_path / "image.png"
    save_image(file, image)
    for place in (image, file):
        assert count_images(place) == count
        assert image_size(place) == (4 * count, 6)
        assert open_image(place).shape == (6, 4 * count, 3)
        for one, wanted in zip(open_images(place), image.reshape(-1, 6, 4, 3), strict=True):
            assert (one == wanted).all()


def test_equal_images_stay_apart(tmp_path):
    save_image(tmp_path / "image.png", np.zeros((3, 6, 4, 3), np.uint8))
    assert len(open_images(tmp_path / "image.png")) == 3


@pytest.mark.parametrize("text", ["five", "5", "0", "-1"])
def test_note_that_does_not_fit_is_of_no_effect(text, tmp_path):
    about = PIL.PngImagePlugin.PngInfo()
    about.add_text("images side by side", text)
    PIL.Image.fromarray(draw(1)).save(tmp_path / "image.png", pnginfo=about)
    assert count_images(tmp_path / "image.png") == 1


def test_message_shows_each_image():
    content = chat_message(Message("user", "Look.", draw(4)))["content"]
    assert [part["type"] for part in content] == ["image_url"] * 4 + ["text"]
    assert len({part["image_url"]["url"] for part in content[:4]}) == 4
