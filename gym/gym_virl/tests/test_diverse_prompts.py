"""Prompts in several wordings: they change nothing but words."""

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from gym_dialogue import InputError
from gym_virl.geo import COMPASS
from gym_virl.prompts import DIVERSE

ID = "gym_virl/Navigation-v0"


def test_the_seed_draws_the_wording_of_a_whole_route():
    plain, diverse = (gymnasium.make(ID, wording=w) for w in ("default", "diverse"))
    openings = set()
    for seed in range(40):
        (_, first_info), (other, other_info) = (env.reset(seed=seed) for env in (plain, diverse))
        assert first_info == other_info
        opening = other["text"].splitlines()[0]
        openings.add(opening)
        assert ", ".join(COMPASS) in other["text"]
        ended = False
        while not ended:
            obs, reward, ended, _, _ = diverse.step(diverse.unwrapped.oracle_reply())
            assert reward == 1
            assert ended or obs["text"].splitlines()[0] == opening
    assert len(openings) == len(DIVERSE)
    check_env(diverse.unwrapped, skip_render_check=True)
    with pytest.raises(InputError, match="wording='many'"):
        gymnasium.make(ID, wording="many")
