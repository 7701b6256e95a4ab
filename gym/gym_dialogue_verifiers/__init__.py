"""What verifiers imports as gym-dialogue-verifiers: `gym_dialogue.adapters.verifiers_env`."""

from gym_dialogue.adapters.verifiers_env import (
    ChatHarness,
    DialogueTaskset,
    DialogueVerifiersEnv,
)

__all__ = ["ChatHarness", "DialogueTaskset", "DialogueVerifiersEnv"]
