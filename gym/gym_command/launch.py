"""Runs a command as several processes: `python -m gym_command.launch HOW MODULE ARGUMENTS`.

HOW is a number of processes on this machine, or an accelerate configuration file (as written by
`accelerate config`), which accelerate itself reads. Unlike `accelerate launch`, bad input ends in
the one line that the command prints, without a launcher's report below it; and requests to end
(SIGTERM, Ctrl-C) are passed on and waited for, however long the processes take to save.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gym_command.lock import ends_with_parent
from gym_dialogue.errors import InputError

ASKING = (signal.SIGTERM, signal.SIGINT)
"""Signals that ask a process to save and end."""

# Seconds that processes have to exit after the first one failed with this code: saving after a
# SIGTERM takes time, and after bad input another process may be the one to report it.
_GRACE = {128 + signal.SIGTERM: 1800.0, 2: 2.0}


def launch(
    processes: int,
    command: list[str],
    env: dict[str, str],
    machines: dict[str, str] | None = None,
) -> int:
    """Run `command` as this machine's ranks and wait for all of them. Return the exit code of the
    first that failed, 0 if none did, or 130 after Ctrl-C. When one fails, the others are ended.

    `machines` holds the variables of a launch on several machines: MACHINE_RANK, MASTER_ADDR,
    MASTER_PORT and WORLD_SIZE. If there are several processes, each computes with one thread unless
    OMP_NUM_THREADS says otherwise.
    """
    token, drop = os.pipe()  # holds one byte, for the one process that reports bad input
    os.set_blocking(token, False)
    os.write(drop, b".")
    shared = _shared_env(processes, env, machines or {}) | {"BAD_INPUT_TOKEN": str(token)}
    first = int(shared.get("MACHINE_RANK", 0)) * processes if machines else 0
    children: list[subprocess.Popen] = []
    try:
        with _passing_on(children) as received:
            for local in range(processes):
                ranks = {"RANK": str(first + local), "LOCAL_RANK": str(local)}
                children.append(_start(command, shared | ranks, token))
            code = _end(children)
            if code != 128 + signal.SIGTERM or signal.SIGINT not in received:
                return code
            if all(child.returncode == -signal.SIGTERM for child in children):  # none has reported
                print("\nInterrupted", file=sys.stderr)
            return 128 + signal.SIGINT
    finally:
        os.close(token)
        os.close(drop)


def _shared_env(processes: int, env: dict[str, str], machines: dict[str, str]) -> dict[str, str]:
    """Return the environment that all ranks of this machine share."""
    threads = {"OMP_NUM_THREADS": "1"} if processes > 1 else {}
    local = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    return threads | env | local | machines


def _start(command: list[str], env: dict[str, str], token: int) -> subprocess.Popen:
    return subprocess.Popen(
        command,
        env=env,
        start_new_session=True,  # so that Ctrl-C reaches it only once, through _passing_on
        preexec_fn=ends_with_parent(),
        pass_fds=(token,),
    )


@contextmanager
def _passing_on(children: list[subprocess.Popen]) -> Iterator[list[int]]:
    """Pass requests to end on to children, which may still be added. Yields those received."""
    received: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        received.append(number)
        for child in children:
            if child.poll() is None:
                # SIGTERM in any case: SIGINT would give a traceback in processes still importing.
                child.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in ASKING}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(children: list[subprocess.Popen]) -> int:
    """Wait for all children; return the exit code of the first that failed, else 0."""
    while True:
        codes = [child.poll() for child in children]
        failed = next((code for code in codes if code), 0)
        if failed:
            _wait(children, _GRACE.get(failed, 0.0))
            for child in children:
                if child.poll() is None:
                    child.kill()
                child.wait()
            return failed if failed > 0 else 128 - failed
        if None not in codes:
            return 0
        time.sleep(0.05)


def _wait(children: list[subprocess.Popen], seconds: float) -> None:
    """Wait until all have ended, at most `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(child.poll() is None for child in children):
        time.sleep(0.05)


def from_accelerate(file: str) -> tuple[int, dict[str, str], dict[str, str] | None]:
    """Read an accelerate configuration file. Return the processes on this machine, their
    environment, and the variables that join several machines (None for one machine).

    NUM_MACHINES, MACHINE_RANK, MAIN_PROCESS_IP and MAIN_PROCESS_PORT in the environment override
    the file; NUM_PROCESSES then counts those of one machine. Raises InputError for a file that
    cannot be read, or whose way to distribute is neither DeepSpeed nor data parallelism.
    """
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    if not Path(file).is_file():
        raise InputError(f"accelerate configuration {file}: no such file")
    flags = [*_accelerate_flags(file), "-m", "module"]
    try:
        args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(flags))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"accelerate configuration {file}: {error}") from error
    env = _accelerate_env(args, defaults, file)
    machines = None
    if args.num_machines > 1:
        machines = {
            "MASTER_ADDR": str(args.main_process_ip),
            "MASTER_PORT": str(args.main_process_port),
            "MACHINE_RANK": str(args.machine_rank),
            "WORLD_SIZE": str(args.num_processes),
        }
    return args.num_processes // args.num_machines, env, machines


def _accelerate_flags(file: str) -> list[str]:
    """Return flags of `accelerate launch` for a file and the variables that override it."""
    flags = ["--config_file", file]
    machines = int(os.environ.get("NUM_MACHINES", 0))
    if machines:
        per_machine = int(os.environ.get("NUM_PROCESSES", 8))
        flags += [f"--num_machines={machines}", f"--num_processes={machines * per_machine}"]
    for name in ("MACHINE_RANK", "MAIN_PROCESS_IP", "MAIN_PROCESS_PORT"):
        if name in os.environ:
            flags += [f"--{name.lower()}={os.environ[name]}"]
    if not machines:
        flags.append("--main_process_port=0")
    return flags


def _accelerate_env(args: Any, defaults: Any, file: str) -> dict[str, str]:
    """Return the environment that accelerate gives to processes with these arguments."""
    from accelerate.utils.launch import (
        prepare_deepspeed_cmd_env,
        prepare_multi_gpu_env,
        prepare_simple_launcher_cmd_env,
    )

    kind = defaults.distributed_type.value
    if args.use_deepspeed:
        fields = ",".join(defaults.deepspeed_config)
        args.deepspeed_fields_from_accelerate_config = fields
        _, env = prepare_deepspeed_cmd_env(args)
    elif args.multi_gpu:
        env = prepare_multi_gpu_env(args)
    elif kind in ("NO", "MULTI_CPU"):
        _, env = prepare_simple_launcher_cmd_env(args)
    else:
        raise InputError(
            f"accelerate configuration {file}: distributed_type {kind}: must be DEEPSPEED, "
            "MULTI_GPU, MULTI_CPU or NO"
        )
    if defaults.use_cpu:  # under DeepSpeed, accelerate would read the second as: without it
        env |= {"DS_ACCELERATOR": "cpu"} if args.use_deepspeed else {"ACCELERATE_USE_CPU": "true"}
    return env


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def main(how: str, module: str, arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    try:
        plan = (int(how), dict(os.environ), None) if how.isdecimal() else from_accelerate(how)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    processes, env, machines = plan
    if processes < 1:
        print(f"error: PROCESSES={processes}: must be at least 1", file=sys.stderr)
        return 2
    command = [sys.executable, "-m", "gym_command.process", module, *arguments]
    return launch(processes, command, env, machines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
