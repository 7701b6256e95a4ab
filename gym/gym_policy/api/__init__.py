"""Policies that are models behind an OpenAI-compatible API."""
