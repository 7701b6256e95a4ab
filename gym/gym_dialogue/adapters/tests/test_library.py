"""What an adapter says of a library that is missing, lacks something, or is newer."""

import importlib.metadata

import pytest

from gym_dialogue import InputError
from gym_dialogue.adapters.library import library


def _installed(monkeypatch, version):
    def answer(name):
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", answer)


def test_missing_library_is_named_with_the_tested_version(monkeypatch):
    _installed(monkeypatch, None)
    with (
        pytest.raises(InputError, match=r"^openenv: is not installed; .*pip install openenv==\d"),
        library("openenv"),
    ):
        raise AssertionError("nothing is imported of a library that is not there")


def test_library_without_what_is_imported_is_named_with_the_tested_version(monkeypatch):
    _installed(monkeypatch, "99.0")
    with (
        pytest.raises(InputError, match=r"^openenv 99.0: .*no_such_name.*; tested with"),
        library("openenv"),
    ):
        from json import no_such_name  # noqa: F401


def test_newer_library_is_warned_of(monkeypatch):
    _installed(monkeypatch, "99.0")
    with (
        pytest.warns(UserWarning, match="openenv 99.0: newer than what was tested with"),
        library("openenv"),
    ):
        pass


@pytest.mark.filterwarnings("error")
def test_library_is_silent(monkeypatch):
    _installed(monkeypatch, "0.0.1")
    with library("openenv"):
        pass
