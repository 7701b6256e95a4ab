"""SFT against RL from the same starts at equal compute: runs, analysis, figures, report."""
