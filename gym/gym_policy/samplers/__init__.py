"""Samples replies: a policy that is a language model, and the ways to run it."""
