"""Files of dialogues, images and JSON that are unusual, or broken on purpose."""

import io
import json
import zlib

import numpy as np
import PIL.Image
import pytest
from PIL.PngImagePlugin import MAX_TEXT_CHUNK, PngInfo

from gym_dialogue import InputError
from gym_dialogue.checks import json_records, read_json
from gym_dialogue.data import read_dialogues
from gym_dialogue.images import open_image


def _dialogue(text="a", **user):
    user = {"role": "user", "content": text} | user
    return {"messages": [user, {"role": "assistant", "content": "b"}]}


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x85", "\u00a0"])
def test_a_line_ends_at_a_newline_and_nowhere_else(inside, tmp_path):
    text = f"one{inside}two"
    line = json.dumps(_dialogue(text), ensure_ascii=False)
    (tmp_path / "a.jsonl").write_text(f"{line}\n{line}", encoding="utf-8")
    assert [d[0].text for d in read_dialogues(tmp_path / "a.jsonl")] == [text] * 2
    assert json_records(f'"{inside}"\n\n"b"\n{{') == [(1, inside), (3, "b"), (4, None)]


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("form", ["jsonl", "list"])
def test_a_byte_order_mark_and_any_line_end_are_accepted(form, mark, end, tmp_path):
    file = tmp_path / "a.json"
    body = json.dumps(_dialogue())
    body = f"[{body}]" if form == "list" else f"{body}{end or chr(10)}{body}"
    file.write_bytes((mark + body + end).encode())
    assert {len(d) for d in read_dialogues(file)} == {2}
    (tmp_path / "b.json").write_bytes((mark + "[1]" + end).encode())
    assert read_json(tmp_path / "b.json", "b") == [1]


@pytest.mark.parametrize("none", [{"images": None}, {"images": []}, {"image": None}])
def test_an_image_that_is_null_is_none(none, tmp_path):
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    (tmp_path / "a.json").write_text(json.dumps([{"conversations": turns} | none]))
    ((first, _),) = read_dialogues(tmp_path / "a.json")
    assert (first.text, first.image) == ("a", None)


@pytest.mark.parametrize("name", ["a\0b.png", "a\ud800.png", "\0", "x" * 5000, ".", "a/../.."])
def test_names_that_are_no_image(name, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(_dialogue(image=name)))
    with pytest.raises(InputError, match=r"line 1: image .*") as error:
        list(read_dialogues(tmp_path / "a.jsonl"))
    assert "\0" not in str(error.value)


def _png_with_text(after_pixels):
    """A PNG file whose compressed text is larger than is read, before or after its pixels."""
    info = PngInfo()
    bomb = b"Comment\0\0" + zlib.compress(b"a" * (MAX_TEXT_CHUNK * 2), 9)
    info.add(b"zTXt", bomb, after_idat=after_pixels)
    file = io.BytesIO()
    PIL.Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


@pytest.mark.parametrize("after_pixels", [False, True])
def test_text_in_an_image_that_inflates_without_end(after_pixels, tmp_path):
    (tmp_path / "a.png").write_bytes(_png_with_text(after_pixels))
    with pytest.raises(InputError, match=r"image .*a\.png.*too large"):
        open_image(tmp_path / "a.png")
    if not after_pixels:
        (tmp_path / "a.jsonl").write_text(json.dumps(_dialogue(image="a.png")))
        with pytest.raises(InputError, match="line 1: image"):
            list(read_dialogues(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("half", ["\ud800", "x\udc00y"])
def test_half_a_surrogate_pair_is_no_text(half, tmp_path):
    llava = {"conversations": [{"from": "human", "value": half}, {"from": "gpt", "value": "b"}]}
    for record in (_dialogue(half), llava):
        (tmp_path / "a.jsonl").write_text(json.dumps(record))
        with pytest.raises(InputError, match="line 1: holds half a surrogate pair"):
            list(read_dialogues(tmp_path / "a.jsonl"))
    (tmp_path / "b.json").write_text(json.dumps({"a": [half]}))
    with pytest.raises(InputError, match=r"^b: holds half a surrogate pair"):
        read_json(tmp_path / "b.json", "b")
    (tmp_path / "c.jsonl").write_text(json.dumps(_dialogue("\U0001f0a1")))  # a whole pair
    assert next(read_dialogues(tmp_path / "c.jsonl"))[0].text == "\U0001f0a1"
