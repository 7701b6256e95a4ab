"""What `pip install ./gym` and its extras bring is what the packages import."""

import ast
import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib")

GYM = Path(__file__).parents[2]
OWN = ("gym_command", "gym_dialogue", "gym_cards", "gym_virl", "gym_policy")
# Imported where they are asked for alone: an engine, a file format, drawing.
OPTIONAL = {"deepspeed", "gguf", "matplotlib"}


def _own_path():
    return os.environ | {"PYTHONPATH": str(GYM)}


def _imported(package, leave_out=()):
    """Third-party modules that the files of a package import."""
    actual = set()
    for file in (GYM / package).rglob("*.py"):
        if "tests" in file.parts or file.parent.name in leave_out:
            continue
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                actual |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                actual.add(node.module.split(".")[0])
    return actual - set(sys.stdlib_module_names) - set(OWN)


def _missing(modules, *requirements):
    """Modules that no requirement brings, by name of its distribution."""
    names = {re.match(r"[\w.-]+", r).group().lower().replace("_", "-") for r in requirements}
    distributions = packages_distributions()
    return {
        module
        for module in modules
        if not names & {d.lower().replace("_", "-") for d in distributions.get(module, [module])}
    }


PROJECT = tomllib.loads((GYM / "pyproject.toml").read_text())["project"]
BASE, EXTRAS = PROJECT["dependencies"], PROJECT["optional-dependencies"]


def test_the_environments_need_no_extra():
    """The commands of gym_policy need what the extra `commands` lists."""
    packages = ("gym_dialogue", "gym_command", "gym_cards", "gym_virl")
    # An adapter needs the library that it is for, which has a requirements file of its own.
    modules = set().union(*(_imported(package, ("adapters",)) for package in packages))
    extra = _missing(modules, *BASE)
    assert not _missing(extra - OPTIONAL, *EXTRAS["commands"], *EXTRAS["torch"])
    block = f"import sys; sys.modules.update(dict.fromkeys({sorted(extra)}))"
    code = f"{block}; import gym_cards, gym_virl, gymnasium; gymnasium.make(gym_cards.ENV_ID)"
    subprocess.run([sys.executable, "-c", code], env=_own_path(), check=True)


def test_the_extra_torch_lists_all_that_gym_policy_imports():
    """accelerate and peft were once missing from it."""
    modules = _imported("gym_policy", ("api",)) - OPTIONAL
    assert {"accelerate", "peft", "torch"} <= modules
    assert not _missing(modules, *BASE, *EXTRAS["torch"])


def test_the_extra_api_lists_what_policies_behind_an_api_import():
    modules = _imported("gym_policy") - OPTIONAL
    assert not _missing(modules, *BASE, *EXTRAS["torch"], *EXTRAS["api"])
