"""Imports run one way: dialogue <- command <- environments, policies <- evaluation, sft <- rl.
Adapters to other frameworks are beside these, and nothing imports them.
"""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GYM = {"gym_dialogue", "gym_command", "gym_cards", "gym_virl", "gym_policy"}
MAY_IMPORT = {
    "gym/gym_dialogue": set(),
    "gym/gym_command": {"gym_dialogue"},
    "gym/gym_cards": {"gym_dialogue", "gym_command"},
    "gym/gym_virl": {"gym_dialogue", "gym_command"},
    "gym/gym_policy": {"gym_dialogue", "gym_command"},
    "gym/gym_dialogue/adapters": {"gym_dialogue", "gym_command", "gym_policy"},
    "evaluation": GYM,
    "sft": GYM,
    "rl": GYM | {"evaluation"},
}
ROOMS = {  # of gym_policy: the base, whose modules lie in the package itself, imports none of them
    "base": {"base"},
    "models": {"base", "models"},
    "samplers": {"base", "samplers"},
    "training": {"base", "models", "training"},
    "api": {"api"},
}
OURS = {Path(package).name for package in MAY_IMPORT}


def _files(package):
    """All of its modules but the tests, and but the adapters, which are a package of their own."""
    package = ROOT / package
    files = (file for file in package.rglob("*.py") if "tests" not in file.parts)
    return [file for file in files if "adapters" not in file.relative_to(package).parts]


def _imported(file):
    """Names of the modules that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_one_way(package):
    allowed = MAY_IMPORT[package] | {Path(package).name}
    for file in _files(package):
        ours = {name.split(".")[0] for name in _imported(file)} & OURS
        assert ours <= allowed, f"{file.name} imports {ours - allowed}"


def test_imports_within_gym_policy_run_one_way():
    package = ROOT / "gym/gym_policy"
    for file in _files("gym/gym_policy"):
        if file == package / "__init__.py":
            continue
        room = "base" if file.parent == package else file.parent.name
        for name in _imported(file):
            parts = name.split(".")
            if parts[0] != "gym_policy" or len(parts) < 2:
                continue
            other = parts[1] if parts[1] in ROOMS else "base"
            assert other in ROOMS[room], f"{file.relative_to(package)} imports {name}"


def _modules():
    """Every module of the project by its dotted name."""
    for package in MAY_IMPORT:
        for file in _files(package):
            dotted = file.relative_to((ROOT / package).parent).with_suffix("").parts
            yield ".".join(dotted[:-1] if dotted[-1] == "__init__" else dotted), file


def test_no_modules_import_each_other_in_a_circle():
    modules = dict(_modules())
    graph = {
        name: {other for other in _imported(file) if other in modules and other != name}
        for name, file in modules.items()
        if not file.name.startswith("__init__")
    }
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("package", ["evaluation", "sft", "rl", "gym/gym_policy"])
def test_no_code_asks_which_environment_it_is_in(package):
    for file in _files(package):
        for node in ast.walk(ast.parse(file.read_text())):
            assert not isinstance(node, ast.If) or "gp_" not in ast.unparse(node.test), file.name
            assert not isinstance(node, ast.If) or "virl" not in ast.unparse(node.test), file.name
