"""Runs a module as a command: `python -m gym_command.process MODULE ARGUMENTS`.

It works as `python -m MODULE`, with two differences. Ctrl-C ends in one line and exit code 130 from
the first moment, even during imports. And after the module and all exit handlers have run, the
process ends at once: otherwise threads of a process group (gloo's, which DeepSpeed keeps alive)
could abort while the interpreter shuts down, and turn a successful run into exit code 134
(https://github.com/pytorch/pytorch/pull/179291).

To obey Ctrl-C without a traceback, a launcher starts it with SIGINT ignored (`trap '' INT`) and
OBEY_INTERRUPTS=1 in the environment; this module then turns SIGINT on.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys

_exit_code = 0


def _leave() -> None:
    """End the process. Registered first, and therefore called last of all exit handlers."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # its reader is gone, or it is closed
            stream.flush()
    os._exit(_exit_code)


def main(module: str, arguments: list[str]) -> None:
    """Run a module, then exit with the code that Python would give it."""
    global _exit_code
    atexit.register(_leave)
    _exit_code = 1  # for an exception that leaves this function, with a traceback
    try:
        if os.environ.pop("OBEY_INTERRUPTS", ""):
            signal.signal(signal.SIGINT, signal.default_int_handler)
        import runpy
        import warnings

        # Python warns if the module's package has imported it already; that is harmless here.
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
