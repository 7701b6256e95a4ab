"""V-IRL: street navigation by written directions. Importing this package registers the ids."""

import gymnasium

ENV_ID = "gym_virl/Navigation-v0"

gymnasium.register(id=ENV_ID, entry_point="gym_virl.env:NavigationEnv")

__all__ = ["ENV_ID"]
