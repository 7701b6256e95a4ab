"""The user's own card pictures: where they are laid, and what is wrong with a set of them."""

import gymnasium
import numpy as np
import pytest
from PIL import Image

from gym_cards.pictures import lay_pictures
from gym_cards.render import TABLES
from gym_cards.rules import RANKS
from gym_dialogue import InputError

SUITS = {"C": "clubs", "D": "diamonds", "H": "hearts", "S": "spades"}


def _color(rank, letter):
    return (10 * RANKS.index(rank) + 5, 60 * "CDHS".index(letter) + 10, 200)


@pytest.fixture
def cards(tmp_path):
    """A colour for each card; two forms of ten; hearts are transparent in their left half."""
    for letter in SUITS:
        for rank in RANKS:
            pixels = np.full((14, 10, 4), (*_color(rank, letter), 255), np.uint8)
            if letter == "H":
                pixels[:, :5, 3] = 0
            name = "T" if rank == "10" and letter in "DH" else rank
            Image.fromarray(pixels).save(tmp_path / f"{letter}{name}.png")
    return tmp_path


def test_cards_lie_where_the_released_code_lays_them(cards):
    table = TABLES["released"]
    assert table == (53, 101, 77)
    image = lay_pictures(
        ["A", "10", "K", "10"], ["spades", "diamonds", "clubs", "clubs"], 400, table, cards
    )
    assert image.shape == (400, 400, 3)
    # 400 / 4 * 0.9 = 90 wide, 126 high, from 5, 104, 203, 302 and from 137 down.
    wanted = np.empty_like(image)
    wanted[:] = table
    laid = {5: ("A", "S"), 104: ("10", "D"), 203: ("K", "C"), 302: ("10", "C")}
    for left, card in laid.items():
        wanted[137 : 137 + 126, left : left + 90] = _color(*card)
    np.testing.assert_array_equal(image, wanted)


def test_table_shows_through(cards):
    image = lay_pictures(["A"] * 4, ["hearts"] * 4, 400, TABLES["released"], cards)
    assert tuple(image[200, 20]) == TABLES["released"]
    assert tuple(image[200, 80]) == _color("A", "H")


def _env(**kwargs):
    settings = {"language_only": False, "layout": "row", "resolution": 112} | kwargs
    return gymnasium.make("gym_cards/GeneralPoint-oneline-v0", **settings)


def test_environment_shows_the_pictures_and_deals_as_without_them(cards):
    own, drawn = _env(card_dir=str(cards), face_cards_color="red"), _env(face_cards_color="red")
    for seed in range(5):
        obs, info = own.reset(seed=seed)
        assert info == drawn.reset(seed=seed)[1]
        color = TABLES["green"]
        wanted = lay_pictures(info["plain_cards"], info["suits"], 112, color, cards)
        np.testing.assert_array_equal(obs["image"], wanted)


def test_picture_set_that_cannot_be_used_is_one_line(cards):
    with pytest.raises(InputError, match="language_only=False and layout='row'"):
        _env(card_dir=str(cards), layout="grid")
    with pytest.raises(InputError, match="language_only=False and layout='row'"):
        _env(card_dir=str(cards), language_only=True)
    with pytest.raises(InputError, match="card_dir /nowhere: is not a directory"):
        _env(card_dir="/nowhere")
    (cards / "HT.png").rename(cards / "tens.png")
    with pytest.raises(InputError, match=r"has no H10\.png or HT\.png, the 10 of hearts"):
        _env(card_dir=str(cards))
    (cards / "tens.png").rename(cards / "H10.png")
    whole = (cards / "SA.png").read_bytes()
    (cards / "SA.png").write_text("no picture")
    with pytest.raises(InputError, match=r"SA\.png: is not an image file"):
        _env(card_dir=str(cards))
    (cards / "SA.png").write_bytes(whole[:60])
    with pytest.raises(InputError, match=r"SA\.png: is broken"):
        _env(card_dir=str(cards), face_cards_color="black").reset(
            options={"cards": ["A", "A", "A", "8"]}
        )


def test_arguments_of_the_released_environment_are_taken():
    assert _env(show_eqn=True).reset(seed=0)[1] == _env().reset(seed=0)[1]
    with pytest.raises(InputError, match="show_eqn=False: no picture shows the formula"):
        _env(show_eqn=False)
