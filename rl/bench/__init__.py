"""Measures this project on the machine at hand: the command behind scripts/bench.sh."""
