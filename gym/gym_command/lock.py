"""One process at a time: locks that die with their owner, and processes that end with their parent.

A lock is a kernel lock (flock) on a file. The file may stay behind; on its own it means nothing.
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
    """Lock a directory, created if missing, against other processes that write to it. One of
    several ranks holds the lock; for the others `is_needed` is False.

    Raises InputError if another process holds the lock or the directory cannot be created.
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
            f"run directory {path}: another process is writing to it; wait for it, or stop it"
        ) from None
    finally:
        if is_new:
            with suppress(OSError):  # it is not empty
                path.rmdir()


@contextmanager
def locked(file: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a file's lock; the file is created if missing. If another process holds the lock, call
    `on_wait` and wait; without `on_wait`, raise BlockingIOError with the file's name.

    Raises InputError if the file cannot be created.
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
            # The previous holder may have removed the file, so that the name is another file's.
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
    """Return a function for a child to call first (`preexec_fn` of subprocess.Popen): Linux then
    sends it SIGTERM when this process dies, however it dies.
    """
    parent = os.getpid()
    if sys.platform != "linux":
        return lambda: None
    prctl = ctypes.CDLL(None).prctl
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)

    def ask() -> None:
        prctl(set_parent_death_signal, signal.SIGTERM)
        if os.getppid() != parent:  # the parent has died already
            os._exit(128 + signal.SIGTERM)

    return ask
