"""What one GPU can do with this project, in minutes: the command behind scripts/gpu.sh."""
