import os
import signal
import subprocess
import sys

import pytest

PYTHON = [sys.executable, "-m"]

# What a process group's threads do: nothing, until Python takes itself apart around them.
ABORTS_AT_EXIT = """
import atexit, os, sys

class Thread:
    def __del__(self):
        os.abort()

thread = Thread()
atexit.register(print, "at the exit")
print(sys.argv[1:], __name__)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text):
        (tmp_path / "a_module.py").write_text(text)
        return "a_module"

    return write


def _run(*command):
    return subprocess.run([*PYTHON, *command], capture_output=True, text=True, timeout=60)


def test_process_that_succeeded_is_not_lost_at_its_exit(module):
    name = module(ABORTS_AT_EXIT)
    assert _run(name).returncode == -signal.SIGABRT
    done = _run("gym_command.process", name, "--a=1")
    assert done.returncode == 0
    assert done.stdout.split("\n") == ["['--a=1'] __main__", "at the exit", ""]


@pytest.mark.parametrize(
    ("text", "code", "error"),
    [
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('a sentence')", 1, "a sentence\n"),
        ("raise SystemExit", 0, ""),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
    ],
)
def test_exit_code_is_that_of_the_module(module, text, code, error):
    done = _run("gym_command.process", module(text))
    assert done.returncode == code
    assert done.stderr.endswith(error)
    assert bool(error) == bool(done.stderr)


@pytest.mark.parametrize(
    ("environment", "code", "error"),
    [({"OBEY_INTERRUPTS": "1"}, 130, "\nInterrupted\n"), ({}, 0, "")],
    ids=["obeyed", "ignored"],
)
def test_interrupt_while_importing(module, environment, code, error):
    name = module("print('importing', flush=True); import time; time.sleep(3)")
    process = subprocess.Popen(
        [*PYTHON, "gym_command.process", name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as launchers start it
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (code, error)
