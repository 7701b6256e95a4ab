"""GeneralPoints: make 24 out of four playing cards. Importing this package registers the ids."""

import gymnasium

from gym_cards.rules import FaceRule

ENV_ID = "gym_cards/GeneralPoint-oneline-v0"

gymnasium.register(id=ENV_ID, entry_point="gym_cards.env:GeneralPointsEnv")

__all__ = ["ENV_ID", "FaceRule"]
