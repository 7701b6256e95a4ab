"""A miniature of a prompt library: module-level format strings, in sentences of this project."""

Q_GeneralPoint_EQN_L = """
# Puzzle
Combine the four cards below until {target_number} comes out.
Mind that {face_card_msg}, whatever the suit.

# Hand
Cards: {cards}

# Answer
{{
  "cards": [a, b, c, d], where {face_card_msg},
  "number": [i, j, k, l], the value of each card,
  "formula": 'something that comes to {target_number}',
}}

"""

Q_GeneralPoint_EQN_VL = """
# Puzzle
Combine the four cards in the picture until {target_number} comes out.
Mind that {face_card_msg}, whatever the suit.

# Answer
{{
  "cards": [a, b, c, d], where {face_card_msg},
  "number": [i, j, k, l], the value of each card,
  "formula": 'something that comes to {target_number}',
}}

"""

Q_GeneralPoint_EQN_L_EG = """
An example for {target_number}, where {face_card_msg}: {cards}
"""

ResponseEqn = """
{{
  "cards": {cards},
  "number": {numbers},
  "formula": "{formula}",
}}"""

Q_VIRL_L = """
# Walk
Find the way by the directions, one action at a time.

# Directions
{instruction}

# Actions
{action_space}

# Log
{obs_act_seq}

# Answer
{{
  "current observation": the last line of the log,
  "current instruction": the direction to follow,
  "action": the next action,
}}
"""

Q_VIRL_VL = """
# Walk
Find the way by the directions and the pictures, one action at a time.

# Directions
{instruction}

# Pictures
A square of four views:
[ahead, right
 behind, left]

# Actions
{action_space}

# Log
{obs_act_seq}

# Answer
{{
  "current observation": what the pictures show,
  "current instruction": the direction to follow,
  "action": the next action,
}}
"""

ResponseVIRL = """
{{
  "current observation": "{current_observation}",
  "current instruction": "{current_instruction}",
  "action": "{action}",
}}
"""
