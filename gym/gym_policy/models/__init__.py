"""Loads, fetches and adapts language models."""
