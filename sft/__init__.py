"""Supervised fine-tuning on the environments' own prompts, parsers and verifiers."""
