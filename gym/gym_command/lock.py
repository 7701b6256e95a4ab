"""One process at a time: locks that die with their owner, and processes that end with their parent.

A lock is the kernel's (flock) on a file that may stay behind: the file alone means nothing.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gym_dialogue.errors import InputError

_LOCK_FILE = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # on some network file systems


@contextmanager
def sole_writer(directory: str | Path, is_needed: bool = True) -> Iterator[None]:
    """Hold a directory, made if need be, against other processes that write it. Of several ranks
    one holds it: for the others it is not needed.

    Raises InputError where another process holds it, and where it cannot be made.
    """
    if not is_needed:
        yield
        return
    path = Path(directory)
    is_new = not path.exists()
    try:
        with locked(path / _LOCK_FILE):
            yield
    except BlockingIOError as error:
        if error.filename != str(path / _LOCK_FILE):
            raise
        raise InputError(
            f"run directory {path}: another process is writing it; wait for it, or stop it"
        ) from None
    finally:
        if is_new:
            with suppress(OSError):  # it holds something
                path.rmdir()


@contextmanager
def locked(file: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock of a file, which is made if need be. Where another process holds it, call
    `on_wait` and wait for it; without that, raise BlockingIOError, with the file's name.

    Raises InputError where the file cannot be made.
    """
    descriptor = _acquire(file, on_wait)
    try:
        yield
    finally:
        with suppress(OSError):
            file.unlink()
        os.close(descriptor)


def _acquire(file: Path, on_wait: Callable[[], None] | None) -> int:
    while True:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(f"{file.parent}: cannot be written: {error.strerror}") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if on_wait is None:
                    raise BlockingIOError(errno.EWOULDBLOCK, "is locked", str(file)) from None
                on_wait()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Who held it before may have removed the file: then this is not the file of that name.
            if os.path.samestat(os.fstat(descriptor), os.stat(file)):
                return descriptor
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return descriptor
            os.close(descriptor)
            raise
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def ends_with_parent() -> Callable[[], None]:
    """What a child is to call first (`preexec_fn` of subprocess.Popen), so that Linux sends it a
    SIGTERM when this process dies, however it dies.
    """
    parent = os.getpid()
    if sys.platform != "linux":
        return lambda: None
    prctl = ctypes.CDLL(None).prctl
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)

    def ask() -> None:
        prctl(set_parent_death_signal, signal.SIGTERM)
        if os.getppid() != parent:  # it died before
            os._exit(128 + signal.SIGTERM)

    return ask
