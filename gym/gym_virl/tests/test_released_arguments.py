"""Arguments of the released environment: honoured, or refused with what to write instead."""

import pytest

from gym_command.command import parse_config
from gym_dialogue import InputError
from gym_dialogue.make import EnvConfig, make_envs
from gym_virl import export


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    out = tmp_path_factory.mktemp("city") / "city"
    export.main(export.Config(str(out), num_routes=2, resolution=16, panoramas="none"))
    return out


def _make(city, **kwargs):
    kwargs = {"route_info_path": str(city / "route_infos.json"), "relocation": True} | kwargs
    return make_envs(EnvConfig("gym_virl/Navigation-v0", kwargs), 1)[0]


def test_a_platform_names_the_panoramas(city):
    views, table = str(city / "street_views"), str(city / "gps_pano_mapping.pkl")
    offline = {"ENABLED": True, "PANORAMA_DIR": views, "GPS_TO_PANO_PATH": table}
    wanted = _make(city, panorama_dir=views, gps_to_pano_path=table)
    for platform in (
        {"STREET_VIEW": {"SIZE": [640, 640]}, "OFFLINE": offline},
        {"platform": {"offline": {key.lower(): value for key, value in offline.items()}}},
    ):
        env = _make(city, platform_cfg=platform)
        assert env.reset(seed=3)[1] == wanted.reset(seed=3)[1]
    yaml = city / "env.yaml"
    section = f"{{ENABLED: true, PANORAMA_DIR: {views}, GPS_TO_PANO_PATH: {table}}}"
    yaml.write_text(f"kwargs: {{platform_cfg: {{RADIUS: 20, OFFLINE: {section}}}}}\n")
    read = parse_config(EnvConfig, [f"--config={yaml}"]).kwargs
    assert _make(city, **read).reset(seed=3)[1] == wanted.reset(seed=3)[1]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"platform_cfg": {"OFFLINE": {"PANORAMA_DIR": "x"}}}, "names no GPS_TO_PANO_PATH"),
        ({"platform_cfg": {"API": "x"}}, "has no section OFFLINE"),
        ({"platform_cfg": "platform.yaml"}, "must be a mapping"),
        ({"navigator_cfg": {"x": 1}}, "navigator_cfg: is not used here"),
        ({"platform_save_dir": "out"}, "platform_save_dir: is not used here"),
    ],
)
def test_what_cannot_be_honoured_says_what_to_write(arguments, word, city):
    with pytest.raises(InputError, match=word) as error:
        _make(city, **arguments)
    assert "write panorama_dir=DIRECTORY gps_to_pano_path=FILE" in str(error.value)
    assert "\n" not in str(error.value)
