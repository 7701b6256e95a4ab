"""`python -m rl.bench`."""

from gym_command.command import run_command
from rl.bench.command import main
from rl.bench.config import BenchConfig

if __name__ == "__main__":
    run_command(main, BenchConfig)
