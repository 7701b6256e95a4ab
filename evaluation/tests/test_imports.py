"""Imports run one way: dialogue <- command <- environments, policies <- evaluation, sft <- rl."""

import ast
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
    "evaluation": GYM,
    "sft": GYM,
    "rl": GYM | {"evaluation"},
}
OURS = {Path(package).name for package in MAY_IMPORT}


def _files(package):
    """All of its modules but the tests."""
    return [f for f in (ROOT / package).rglob("*.py") if "tests" not in f.parts]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_one_way(package):
    allowed = MAY_IMPORT[package] | {Path(package).name}
    for file in _files(package):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            found = {name.split(".")[0] for name in names} & OURS
            assert found <= allowed, f"{file.name} imports {found - allowed}"


@pytest.mark.parametrize("package", ["evaluation", "sft", "rl", "gym/gym_policy"])
def test_no_code_asks_which_environment_it_is_in(package):
    for file in _files(package):
        for node in ast.walk(ast.parse(file.read_text())):
            assert not isinstance(node, ast.If) or "gp_" not in ast.unparse(node.test), file.name
            assert not isinstance(node, ast.If) or "virl" not in ast.unparse(node.test), file.name
