"""The launchers: their syntax, their choices, and how they refuse bad input."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))

needs_environment = pytest.mark.skipif(
    not (ROOT / ".venv" / "made-from").is_file(), reason="the launchers have made no .venv here"
)


def _bash(*arguments):
    return subprocess.run(
        ["bash", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_syntax_and_header(script):
    assert _bash("-n", str(script)).returncode == 0
    text = script.read_text()
    assert script.name == "env.sh" or all(
        word in text for word in ("# Purpose:", "# Usage:", "set -euo pipefail")
    )


@needs_environment
@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["train_rl_gp_l.sh", "huge"], "scale huge: must be one of tiny"),
        (["train_rl_gp_l.sh", "--model=x/y", "--lr=fast"], "lr"),
        (["eval_ood.sh", "/nowhere/x"], "no such directory"),
        (["across_seeds.sh", "/nowhere"], "finished run"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, word):
    done = _bash(f"scripts/{arguments[0]}", *arguments[1:])
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert word in errors[0]
    assert "Traceback" not in done.stderr


@needs_environment
def test_the_last_value_of_an_option_wins():
    source = f"source {ROOT}/scripts/env.sh; option seed 0 --seed=1 --other=2 --seed=3"
    assert _bash("-c", source).stdout == "3"
