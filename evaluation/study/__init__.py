"""SFT against RL from the same initial checkpoints at equal compute."""
