"""Says what this interpreter lacks of what the project needs, on one line; nothing if nothing.

The versions are the ranges of gym/pyproject.toml; what only requirements.txt names must be there in
any version, and what it names for tests only with the argument --tests. With --one-process only
what sampling and training in one process need counts: no DeepSpeed, nothing for APIs. Nothing that
is checked is imported, so that it takes a moment only.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib
try:
    from packaging.requirements import Requirement
except ImportError:
    try:
        from pip._vendor.packaging.requirements import Requirement
    except ImportError:
        print("packaging, without which the rest cannot be told")
        sys.exit()

ROOT = Path(__file__).parents[1]


def needed(with_tests: bool, for_one_process: bool) -> dict[str, Requirement]:
    """Return what is needed, by name."""
    project = tomllib.loads((ROOT / "gym/pyproject.toml").read_text())["project"]
    if for_one_process:
        extras = project["optional-dependencies"]
        wanted = [*project["dependencies"], *extras["torch"], *extras["commands"], "matplotlib"]
        return {requirement.name: requirement for requirement in map(Requirement, wanted)}
    pinned, _, for_tests = (ROOT / "requirements.txt").read_text().partition("# Tests")
    lines = (pinned + for_tests.partition("\n")[2] * with_tests).splitlines()
    named = (line.partition("==")[0] for line in lines if line and not line.startswith("#"))
    extras = project["optional-dependencies"].values()
    wanted = [*named, *project["dependencies"], *(line for extra in extras for line in extra)]
    return {requirement.name: requirement for requirement in map(Requirement, wanted)}


def lacks(wanted: Requirement) -> str | None:
    """Return what to say of a package that is not there in such a version; None if it is."""
    versions = f"{wanted.name}{wanted.specifier}"
    try:
        has = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return versions
    if not wanted.specifier.contains(has, prereleases=True):
        return f"{versions} (has {has})"
    of_extras = [
        requirement
        for requirement in map(Requirement, metadata.requires(wanted.name) or ())
        for extra in wanted.extras
        if requirement.marker and requirement.marker.evaluate({"extra": extra})
    ]
    return ", ".join(filter(None, map(lacks, of_extras))) or None


if __name__ == "__main__":
    wanted = needed("--tests" in sys.argv, "--one-process" in sys.argv)
    missing = (lacks(requirement) for requirement in wanted.values())
    print(", ".join(sorted(filter(None, missing))))
