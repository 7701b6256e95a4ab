"""Reinforcement learning of language models from a verifier, over multi-turn dialogues."""
