"""What is wrong with released data is said by the commands in one line, with exit code 2."""

import json
import pickle
import shutil
import subprocess
import sys

import pytest

from gym_command.command import run_command
from gym_virl import draw, export, panoramas

VIEWS = ("--env_kwargs.language_only=false", "--env_kwargs.resolution=16")


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    """A city in the released form."""
    out = tmp_path_factory.mktemp("city") / "city"
    config = export.Config(str(out), "london", num_routes=2, resolution=16, panoramas="routes")
    export.main(config)
    return out


@pytest.fixture
def data(city, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(city, tmp_path / "data")


def error_line(capsys, monkeypatch, module, *flags):
    """What a command says on its way out, which must be one line."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *flags])
    with pytest.raises(SystemExit) as ended:
        run_command(module.main, module.Config)
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    return printed.err


def edited(change):
    """Damages the routes: `change` gets the first of them."""

    def damage(data):
        path = data / "route_infos.json"
        routes = json.loads(path.read_text())
        change(routes[0][0])
        path.write_text(json.dumps(routes))

    return damage


def out_of_range(route):
    """Moves its first milestone off the earth."""
    route["route_results"]["geocode_list"][0] = [251.0, 0.0]


def each(pattern, change):
    """Damages all files of a pattern; `change` gets their content."""

    def damage(data):
        for path in data.glob(pattern):
            path.write_bytes(change(path.read_bytes()))

    return damage


def removed(pattern):
    """Removes all files of a pattern."""

    def damage(data):
        for path in list(data.glob(pattern)):
            path.unlink()

    return damage


class _Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("damage", "flags", "word"),
    [
        (removed("route_infos.json"), (), "route_infos.json: cannot be read"),
        (each("route_infos.json", lambda c: c[: len(c) // 2]), (), "is not whole JSON"),
        (edited(lambda route: route.update(milestone_info="")), (), "route 0: has no milestones"),
        (edited(out_of_range), (), "route 0, geocode_list: [251.0, 0.0] is no place"),
        (removed("street_views/*.jpg"), VIEWS, "panorama london_0_"),
        (each("street_views/*.jpg", lambda c: c[:400]), VIEWS, "panorama london_0_"),
        (removed("street_views/*.json"), VIEWS, ".metadata.json: cannot be read"),
        (
            each("*.pkl", lambda _: pickle.dumps({(0.0, 0.0): _Evil()})),
            VIEWS,
            "refused: the pickle asks for builtins.print",
        ),
        (each("*.pkl", lambda _: pickle.dumps({(0.0, 200.0): "x"})), VIEWS, "(0.0, 200.0) is no"),
        (lambda data: None, ("--route_idx=2",), "route_idx=2: must be from 0 to 1"),
        (lambda data: None, ("--route_idx=-1",), "route_idx=-1: must be from 0 to 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_data_is_one_line(data, capsys, monkeypatch, damage, flags, word):
    damage(data)
    given = {
        "route_info_path": data / "route_infos.json",
        "panorama_dir": data / "street_views",
        "gps_to_pano_path": data / "gps_pano_mapping.pkl",
    }
    flags = [*(f"--env_kwargs.{key}={path}" for key, path in given.items()), *flags]
    line = error_line(capsys, monkeypatch, draw, f"--out={data / 'route.png'}", *flags)
    assert word in line
    assert not (data / "route.png").exists()


@pytest.mark.parametrize(
    ("module", "flags", "word"),
    [
        (export, ("--city=atlantis",), "city 'atlantis': must be one of new_york"),
        (export, ("--num_routes=0",), "num_routes=0"),
        (export, ("--out=/dev/null/city", "--num_routes=1"), "cannot be written"),
        (panoramas, ("--table=/nowhere/t.pkl",), "/nowhere/t.pkl: cannot be read"),
    ],
)
def test_bad_flags_are_one_line(capsys, monkeypatch, module, flags, word):
    assert word in error_line(capsys, monkeypatch, module, *flags)


def test_a_process_says_it_too(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "gym_virl.panoramas", f"--table={tmp_path / 'no.pkl'}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cannot be read" in done.stderr
    assert done.stdout == ""
