"""An episode is a dialogue between a verifier (the environment) and a policy."""

from gym_dialogue.env import DialogueEnv, Prompt, Verdict, shows_images
from gym_dialogue.errors import InputError, NothingToPlayError
from gym_dialogue.messages import Dialogue, Message, Reply
from gym_dialogue.policy import (
    NoisyOraclePolicy,
    OraclePolicy,
    Policy,
    RandomPolicy,
    RecordedPolicy,
)
from gym_dialogue.rollout import Episode, EpisodePlayer, Task, Turn, rollout

__all__ = [
    "Dialogue",
    "DialogueEnv",
    "Episode",
    "EpisodePlayer",
    "InputError",
    "Message",
    "NoisyOraclePolicy",
    "NothingToPlayError",
    "OraclePolicy",
    "Policy",
    "Prompt",
    "RandomPolicy",
    "RecordedPolicy",
    "Reply",
    "Task",
    "Turn",
    "Verdict",
    "rollout",
    "shows_images",
]
