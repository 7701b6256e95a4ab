"""Runs a module as a command: `python -m gym_command.process MODULE ARGUMENTS`.

As `python -m MODULE` does, with two differences. Ctrl-C ends as one line and exit code 130 from the
first moment, even while Python imports. And once the module has ended, and all that asked to be
called at the exit has been, the process ends at once: threads of a process group (gloo's, which
DeepSpeed keeps alive) would abort while Python takes itself apart around them, and turn a run that
succeeded into exit code 134 (https://github.com/pytorch/pytorch/pull/179291).

A launcher that is to obey Ctrl-C without a traceback starts it with SIGINT ignored (`trap '' INT`)
and OBEY_INTERRUPTS=1 in the environment: from here on it is obeyed.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys

_exit_code = 0


def _leave() -> None:
    """End the process. Registered first, so it is called after all else that waits for the exit."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
            stream.flush()
    os._exit(_exit_code)


def main(module: str, arguments: list[str]) -> None:
    """Run a module, then exit with the code that Python would give it."""
    global _exit_code
    atexit.register(_leave)
    _exit_code = 1  # of an exception that gets out of here, with its traceback
    try:
        if os.environ.pop("OBEY_INTERRUPTS", ""):
            signal.signal(signal.SIGINT, signal.default_int_handler)
        import runpy
        import warnings

        # Of a module that its package has imported already, which changes nothing here.
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")
        sys.argv[1:] = arguments
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        _exit_code = 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            _exit_code = end.code or 0
        else:
            print(end.code, file=sys.stderr)
    except KeyboardInterrupt:
        print("\nInterrupted", file=sys.stderr)
        _exit_code = 128 + signal.SIGINT


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
