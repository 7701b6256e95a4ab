"""What RL and SFT share: checkpoints, what is trained of a model, requests to end."""
