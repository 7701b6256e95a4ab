"""Runs a command as several processes: `python -m gym_command.launch HOW MODULE ARGUMENTS`.

HOW is a number of processes on this machine, or an accelerate configuration file (as written by
`accelerate config`), read by accelerate itself. What differs from `accelerate launch`: a bad input
ends as the one line that the command prints, without a launcher's report under it, and what asks it
to end (SIGTERM, Ctrl-C) is passed on and waited for, however long the processes take to save.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from gym_command.lock import ends_with_parent
from gym_dialogue.errors import InputError

ASKING = (signal.SIGTERM, signal.SIGINT)
"""Signals that ask a process to end, when it has saved what it has."""

# Seconds that the other processes get to end by themselves after the first: those that were asked
# to save and leave (SIGTERM) take their time; after bad input they may have the line to print.
_GRACE = {128 + signal.SIGTERM: 1800.0, 2: 2.0}


def launch(
    processes: int,
    command: list[str],
    env: dict[str, str],
    machines: dict[str, str] | None = None,
) -> int:
    """Run `command` as this machine's ranks and wait for all of them; the exit code of the first
    that failed, 0 if none did; 130 if they ended by Ctrl-C. When one fails the others are ended.

    `machines` is what a launch over several machines needs in the environment: MACHINE_RANK,
    MASTER_ADDR, MASTER_PORT and WORLD_SIZE. Of several processes each computes with one thread
    unless OMP_NUM_THREADS says otherwise.
    """
    token, drop = os.pipe()  # one byte, for the one process that says what was wrong with the input
    os.set_blocking(token, False)
    os.write(drop, b".")
    shared = {"OMP_NUM_THREADS": "1"} if processes > 1 else {}
    shared |= env
    shared |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "BAD_INPUT_TOKEN": str(token),
    } | (machines or {})
    first = int(shared.get("MACHINE_RANK", 0)) * processes if machines else 0
    children: list[subprocess.Popen] = []
    asked: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        asked.append(number)
        for child in children:
            if child.poll() is None:
                # Not SIGINT, which would be a traceback of each that is still importing.
                child.send_signal(signal.SIGTERM)

    before = {n: signal.signal(n, pass_on) for n in ASKING}
    for local in range(processes):
        ranks = {"RANK": str(first + local), "LOCAL_RANK": str(local)}
        children.append(
            subprocess.Popen(
                command,
                env=shared | ranks,
                start_new_session=True,  # Ctrl-C reaches it once, through pass_on, and not twice
                preexec_fn=ends_with_parent(),
                pass_fds=(token,),
            )
        )
    try:
        code = _end(children)
        if code != 128 + signal.SIGTERM or signal.SIGINT not in asked:
            return code
        if all(child.returncode == -signal.SIGTERM for child in children):  # none said anything
            print("\nInterrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        os.close(token)
        os.close(drop)
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(children: list[subprocess.Popen]) -> int:
    """Wait for all; the exit code of the first that failed."""
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
    """Until all have ended, but no longer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(child.poll() is None for child in children):
        time.sleep(0.05)


def from_accelerate(file: str) -> tuple[int, dict[str, str], dict[str, str] | None]:
    """Processes on this machine, their environment, and what joins several machines (or None), from
    an accelerate configuration file.

    NUM_MACHINES, MACHINE_RANK, MAIN_PROCESS_IP and MAIN_PROCESS_PORT in the environment win over
    the file; NUM_PROCESSES then counts those of one machine. Raises InputError for a file that
    cannot be read or that names another way to distribute than DeepSpeed or data parallelism.
    """
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import (
        prepare_deepspeed_cmd_env,
        prepare_multi_gpu_env,
        prepare_simple_launcher_cmd_env,
    )

    if not Path(file).is_file():
        raise InputError(f"accelerate configuration {file}: no such file")
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
    try:
        args, defaults, _ = _validate_launch_command(
            launch_command_parser().parse_args([*flags, "-m", "module"])
        )
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"accelerate configuration {file}: {error}") from error
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
    if defaults.use_cpu:  # for DeepSpeed, accelerate would take the first to mean: do without it
        env |= {"DS_ACCELERATOR": "cpu"} if args.use_deepspeed else {"ACCELERATE_USE_CPU": "true"}
    several = None
    if args.num_machines > 1:
        several = {
            "MASTER_ADDR": str(args.main_process_ip),
            "MASTER_PORT": str(args.main_process_port),
            "MACHINE_RANK": str(args.machine_rank),
            "WORLD_SIZE": str(args.num_processes),
        }
    return args.num_processes // args.num_machines, env, several


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def main(how: str, module: str, arguments: list[str]) -> int:
    """The command; returns its exit code."""
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
