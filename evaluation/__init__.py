"""Evaluation in and out of distribution, on the same seeded episodes for every checkpoint."""
