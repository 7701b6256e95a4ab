"""Unpacking a downloaded zip: what it leaves, what it refuses, and what an interruption leaves."""

import stat
import struct
import zipfile

import pytest

from gym_dialogue import InputError
from gym_policy.models import unpack as module
from gym_policy.models.unpack import unpack

ROUTES = {"route_infos.json": b"[]", "street_views/a.jpg": b"1", "street_views/A.jpg": b"2"}


def _zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _files(folder):
    actual = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in actual}


@pytest.mark.parametrize("top", ["", "VLN_mini/", "home/me/VLN_mini/"])
def test_the_folder_is_the_same_whatever_the_zip_begins_with(top, tmp_path):
    members = {top + name: content for name, content in ROUTES.items()}
    members |= {"__MACOSX/._x": b"", f"{top}.DS_Store": b"", f"{top}street_views/": b""}
    assert unpack(_zip(tmp_path / "VLN_mini.zip", members))
    assert _files(tmp_path / "VLN_mini") == ROUTES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["VLN_mini", "VLN_mini.zip"]


@pytest.mark.parametrize(
    ("top", "members", "left"),
    [
        ("", ["street_views/a.jpg"], ["street_views/a.jpg"]),
        ("", ["street_views/a.jpg", "street_views/b/c.jpg"], None),
        ("VLN_mini/", ["street_views/a.jpg"], None),
        ("me/vln_mini/", ["street_views/a.jpg"], None),
        ("VLN_mini-main/", ["gps_pano_mapping.pkl", "street_views/a.jpg"], None),
        ("VLN_mini/routes/", ["route_infos.json", "x/y"], None),
        ("x/y/", ["street_views/a.jpg"], None),
        ("x/", ["street_views/a.jpg", "other.json"], ["other.json", "street_views/a.jpg"]),
        ("", ["other/a.jpg", "other/b.jpg"], None),
    ],
)
def test_only_a_folder_around_the_released_ones_is_left_out(top, members, left, tmp_path):
    _zip(tmp_path / "VLN_mini.zip", {top + name: b"x" for name in members})
    assert unpack(tmp_path / "VLN_mini.zip")
    assert sorted(_files(tmp_path / "VLN_mini")) == (left or members)


@pytest.mark.parametrize("leads", ["to_folder", "to_file", "nowhere"])
def test_a_link_in_the_place_of_the_partial_is_not_written_through(leads, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("mine")
    target = {"to_folder": elsewhere, "to_file": elsewhere / "mine", "nowhere": tmp_path / "no"}
    (tmp_path / "a.partial").symlink_to(target[leads])
    assert unpack(_zip(tmp_path / "a.zip", ROUTES))
    assert _files(tmp_path / "a") == ROUTES
    assert not (tmp_path / "a").is_symlink()
    assert _files(elsewhere) == {"mine": b"mine"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.zip", "elsewhere"]


def test_what_is_unpacked_is_left_and_what_is_begun_is_done_again(tmp_path, monkeypatch):
    archive = _zip(tmp_path / "a.zip", ROUTES)
    with monkeypatch.context() as broken:

        def interrupt(*args):
            raise KeyboardInterrupt

        broken.setattr(module.os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            unpack(archive)
    assert not (tmp_path / "a").exists()
    (tmp_path / "a.partial").mkdir()
    (tmp_path / "a.partial" / "half").write_text("of a killed process")
    assert unpack(archive)
    (tmp_path / "a" / "route_infos.json").write_text("mine")
    assert not unpack(archive)
    assert _files(tmp_path / "a") == ROUTES | {"route_infos.json": b"mine"}


def _link(path):
    info = zipfile.ZipInfo("street_views")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return _zip(path, {"route_infos.json": b"[]", info: "/etc"})


def _large(path):
    """A member that says of itself that it has 3 GiB."""
    _zip(path, {"a/x": b"x", "a/y": b"y"})
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02") + 24
    data[at : at + 4] = struct.pack("<I", 3 << 30)
    path.write_bytes(data)
    return path


def _twice(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x", b"2")
    return path


def _of(*names):
    return lambda path: _zip(path, dict.fromkeys(names, b"x"))


def _text(path):
    path.write_text("no zip")
    return path


def _corrupt(path):
    data = bytearray(_zip(path, {"x": b"0123456789" * 100}).read_bytes())
    data[40] ^= 0xFF
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (_of("ok", "../x"), "'../x' leads out of the folder"),
        (_of("a/../../x"), "leads out of the folder"),
        (_of("/etc/x"), "'/etc/x' leads out of the folder"),
        (_of("C:/x"), "'C:/x' has a name that another system"),
        (_of("..\\x"), "has a name that another system"),
        (_link, "'street_views' is a link"),
        (_large, "'a/y' has 3,221,225,472 bytes"),
        (_twice, "'x' comes twice"),
        (_of("x/y", "x"), "'x/y' lies in what is a file as well"),
        (_of(), "holds no file"),
        (_text, "is damaged"),
        (_corrupt, "is damaged"),
    ],
)
def test_what_does_not_belong_into_the_folder_is_refused(make, word, tmp_path):
    (tmp_path / "deep").mkdir()
    archive = make(tmp_path / "deep" / "a.zip")
    with pytest.raises(InputError, match=r"a\.zip") as error:
        unpack(archive)
    assert word in str(error.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["deep", "a.zip"]


def test_a_disk_that_is_too_small_is_one_line(tmp_path, monkeypatch):
    archive = _zip(tmp_path / "a.zip", {"x": bytes(5000)})
    free = module.shutil.disk_usage(tmp_path)._replace(free=4000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: free)
    with pytest.raises(InputError, match=r"unpacks to 5\.00kB, but 4\.00kB are free"):
        unpack(archive)
