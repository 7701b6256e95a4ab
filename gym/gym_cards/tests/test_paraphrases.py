"""Prompts in several wordings: they mean the same, and change nothing but words."""

import re

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from gym_cards.paraphrases import DIVERSE
from gym_cards.prompts import FORMAT, check_meaning, read_wording
from gym_dialogue import InputError

ID = "gym_cards/GeneralPoint-oneline-v0"


@pytest.mark.parametrize("wording", DIVERSE)
def test_wordings_all_tell_what_the_game_is(wording):
    check_meaning(wording, "a wording")
    assert read_wording(wording.to_json() | {"format": FORMAT}, "a wording") == wording
    for text in (wording.prompt, wording.image_prompt):
        assert "<<target>>" in text
        assert "formula" in text
        assert '"number"' in text
    for text in (wording.prompt, wording.image_prompt, wording.recognition_prompt):
        assert '"cards"' in text


@pytest.mark.parametrize("wording", DIVERSE)
@pytest.mark.parametrize(
    "rule",
    [
        "without (any )?spaces|no spaces|spaces are not",
        "once|one time|[Nn]one may be left over",
        r"\+ - \* /|add, subtract, multiply, divide|addition, subtraction, multiplication and div",
        r"parenthes|\( \)",
    ],
)
def test_wordings_all_tell_what_costs_reward(rule, wording):
    for text in (wording.prompt, wording.image_prompt):
        assert re.search(rule, text)
    assert "formula" not in wording.recognition_prompt


def test_seed_draws_the_wording_and_nothing_else_changes():
    plain, diverse = gymnasium.make(ID), gymnasium.make(ID, wording="diverse")
    prompts = []
    for seed in range(60):
        (first, first_info), (other, other_info) = (
            env.reset(seed=seed) for env in (plain, diverse)
        )
        assert first_info == other_info
        assert diverse.reset(seed=seed)[0]["text"] == other["text"]
        prompts.append((first["text"], other["text"]))
        assert diverse.step(diverse.unwrapped.oracle_reply())[1] == 5
    # An opening is enough to tell the wordings by.
    assert len({other[:12] for _, other in prompts}) == len(DIVERSE)
    assert any(first == other for first, other in prompts)
    texts = [other for _, other in prompts]
    assert texts == [diverse.reset(seed=seed)[0]["text"] for seed in range(60)]
    check_env(diverse.unwrapped, skip_render_check=True)


def test_looks_do_not_depend_on_the_wording():
    kwargs = {"language_only": False, "resolution": 84, "table_color": "random"}
    envs = [gymnasium.make(ID, wording=w, **kwargs) for w in ("default", "diverse")]
    for seed in range(5):
        first, other = (env.reset(seed=seed)[0] for env in envs)
        assert (first["image"] == other["image"]).all()
    assert first["text"] != other["text"]
    check_env(envs[1].unwrapped, skip_render_check=True)


def test_wordings_beside_a_prompt_file_or_of_no_name_are_refused(tmp_path):
    with pytest.raises(InputError, match="wording='many'"):
        gymnasium.make(ID, wording="many")
    with pytest.raises(InputError, match="give one of the two"):
        gymnasium.make(ID, wording="diverse", prompt_file=tmp_path / "wording.json")
