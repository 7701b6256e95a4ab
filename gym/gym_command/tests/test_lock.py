"""Locks and processes, with real processes that are killed."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import pytest

from gym_command.lock import locked, sole_writer
from gym_dialogue import InputError

_HOLD = """
import sys; from pathlib import Path; from gym_command.lock import *
with sole_writer(sys.argv[1]):
    print("held", flush=True); sys.stdin.read()
"""
_WAIT = """
import sys; from pathlib import Path; from gym_command.lock import *
with locked(Path(sys.argv[1]), lambda: print("waiting", flush=True)):
    print("held", flush=True)
"""
_PAUSE = "while True: __import__('time').sleep(0.01)"


@contextmanager
def _python(source, *arguments):
    """A process that runs a source; it is ended with the block, also by a test that fails."""
    with subprocess.Popen(
        [sys.executable, "-c", source, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("end", ["killed", "ended"])
def test_a_directory_has_one_writer_for_as_long_as_that_lives(end, tmp_path):
    run = tmp_path / "run"
    with _python(_HOLD, run) as other:
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(InputError, match="run: another process is writing to it"),
            sole_writer(run),
        ):
            pass
        with sole_writer(run, is_needed=False):  # another rank
            pass
        if end == "killed":
            other.kill()
        else:
            other.stdin.close()
        other.wait()
    assert run.exists() == (end == "killed")
    with sole_writer(run):
        (run / "config.yaml").write_text("")
    assert [file.name for file in run.iterdir()] == ["config.yaml"]


def test_who_finds_a_lock_held_waits_for_it_even_if_the_file_is_removed(tmp_path):
    file = tmp_path / "made.lock"
    with ExitStack() as stack:
        with locked(file):
            other = stack.enter_context(_python(_WAIT, file))
            assert other.stdout.readline() == "waiting\n"
        assert other.stdout.readline() == "held\n"
        assert other.wait() == 0
    assert not file.exists()


def test_errors_within_the_block_are_those_of_the_block(tmp_path):
    with pytest.raises(BlockingIOError), sole_writer(tmp_path / "run"):
        raise BlockingIOError("a pipe")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), sole_writer(tmp_path / "file/run"):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_a_process_ends_with_its_parent(tmp_path):
    source = """
import subprocess, sys; from gym_command.lock import ends_with_parent
subprocess.Popen([sys.executable, "-c", "print('up', flush=True); input()"],
                 stdin=sys.stdin, start_new_session=True, preexec_fn=ends_with_parent()).wait()
"""
    with _python(source) as parent:
        assert parent.stdout.readline() == "up\n"
        parent.kill()
        assert parent.stdout.read() == ""  # the end of the file: nobody holds it any more
    orphan = (
        "import os; from gym_command.lock import ends_with_parent; ask = ends_with_parent();"
        "os.getppid = lambda: 1; ask()"
    )
    with _python(orphan) as late:
        assert late.wait() == 128 + signal.SIGTERM


@pytest.mark.parametrize("says", [True, False])
def test_ctrl_c_of_a_launch_is_one_line_and_code_130(says):
    leaves = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143));" if says else ""
    # A signal between the two would be lost on one long pause.
    child = f"import os, signal, sys; {leaves} os.write(1, b'up\\n')\n{_PAUSE}"
    source = (
        "import os, sys; from gym_command.launch import launch;"
        "sys.exit(launch(2, [sys.executable, '-c', sys.argv[1]], dict(os.environ)))"
    )
    with _python(source, child) as launcher:
        assert [launcher.stdout.readline() for _ in range(2)] == ["up\n"] * 2
        launcher.send_signal(signal.SIGINT)
        _, errors = launcher.communicate()
    assert launcher.returncode == 130
    assert errors.strip() == ("" if says else "Interrupted")


def test_ctrl_c_of_a_command_is_one_line_and_code_130():
    source = (
        "from gym_command.command import *; from gym_dialogue.make import *\n"
        f"def main(config):\n print('up', flush=True)\n {_PAUSE}\n"
        "run_command(main, EnvConfig)"
    )
    with _python(source) as process:
        assert process.stdout.readline() == "up\n"
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate()
    assert (process.returncode, errors.strip()) == (130, "Interrupted")
