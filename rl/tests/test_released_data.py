"""The suites and settings on released data, on an embedded city that stands where that would."""

import json
from pathlib import Path

import pytest

from evaluation.play import evaluation_tasks
from evaluation.suites import load_task
from gym_dialogue.command import EnvConfig, make_envs, parse_config
from gym_virl import export
from gym_virl.geo import COMPASS, RELATIVE
from rl.config import Config as RLConfig
from sft.train import Config as SFTConfig

ROOT = Path(__file__).parents[2]
RELEASED = "data/SFTvsRL_Data/nyc_1k_routes"


@pytest.fixture(scope="module")
def released_form(tmp_path_factory):
    """A directory with an embedded city where the released data would be."""
    place = tmp_path_factory.mktemp("released")
    flags = ["--num_routes=12", "--resolution=16", "--panoramas=routes"]
    export.main(parse_config(export.Config, [f"--out={place / RELEASED}", *flags]))
    return place


@pytest.mark.parametrize("task", ["virl_l_nyc", "virl_vl_nyc"])
def test_the_suites_on_released_data_walk_what_they_say(task, released_form, monkeypatch):
    monkeypatch.chdir(released_form)
    sees = task == "virl_vl_nyc"
    for number, suite in enumerate(load_task(task).suites):
        assert suite.env.kwargs.get("resolution", 1200) == 1200
        small = suite.env.kwargs | ({"resolution": 16} if sees else {})
        (env,) = make_envs(EnvConfig(suite.env.id, small), 1)
        for episode in evaluation_tasks(0, number, 2):
            obs, _ = env.reset(seed=episode.env_seed)
            assert ("image" in obs) is sees
            assert not sees or obs["image"].any()
            reply = json.loads(env.unwrapped.oracle_reply())
            assert any(name in reply["current instruction"] for name in COMPASS)
            if "turn" in reply["action"]:
                names = RELATIVE if suite.name == "rule_ood" else COMPASS
                assert any(f"({name})" in reply["action"] for name in names)
        assert (suite.env.kwargs["route_info_path"] is None) == (suite.name == "mini")
        assert len(env.unwrapped.atlas) == (18 if suite.name == "mini" else 12)


@pytest.mark.parametrize("learner", ["rl", "sft"])
@pytest.mark.parametrize("task", ["virl_l", "virl_vl"])
def test_the_paper_settings_find_the_released_data(learner, task, released_form, monkeypatch):
    monkeypatch.chdir(released_form)
    file = f"--config={ROOT / learner / 'configs' / f'{task}_paper.yaml'}"
    config = parse_config({"rl": RLConfig, "sft": SFTConfig}[learner], [file])
    for env in [config.env] if learner == "rl" else [source.env for source in config.sources]:
        small = env.kwargs | ({"resolution": 16} if "resolution" in env.kwargs else {})
        (made,) = make_envs(EnvConfig(env.id, small), 1)
        made.reset(seed=0)
