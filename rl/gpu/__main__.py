"""`python -m rl.gpu`."""

from gym_command.command import run_command
from rl.gpu.command import main
from rl.gpu.config import GpuConfig

if __name__ == "__main__":
    run_command(main, GpuConfig)
