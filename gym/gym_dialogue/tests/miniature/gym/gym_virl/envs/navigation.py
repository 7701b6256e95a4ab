"""A miniature of a navigation environment: what it says of a route, and of where one is."""


class NavigationEnvironment:
    def __init__(self, blocks, init_heading, absolute_action, language_only, points):
        self.absolute_action, self.language_only = absolute_action, language_only
        self.blocks, self.heading, self.points = blocks, init_heading, points
        self.action_list, self.observation_list = [], []
        self.str_instruction, self.rail = self._parse_instruction_and_rail()

    def _parse_instruction_and_rail(self):
        parsed_instruction = []
        absolute, relative = [], []
        landmark_list = []
        prev_heading = self.heading
        for idx, block in enumerate(self.blocks):
            landmark = block.get("landmarks", "No landmark nearby")
            landmark_list.append(landmark)
            degrees, name = block["to_next_intersection_heading"].split(" (")
            next_heading = name[:-1]
            turn = int(degrees) - prev_heading
            relative_heading = (
                ("left" if turn < -45 else "slightly left")
                if turn <= 0
                else ("right" if turn > 45 else "slightly right")
            )
            prev_heading = int(degrees)
            absolute.append("turn_direction(" + next_heading + ")")
            relative.append("turn_direction(" + relative_heading + ")")
            if idx == len(self.blocks) - 1:
                parsed_instruction.append(
                    "Face " + relative_heading + ", which is " + next_heading + "."
                )
                parsed_instruction.append("Walk up to the goal where " + landmark + ".")
            else:
                first_msg = "To begin, face" if idx == 0 else "Face"
                if landmark == "No landmark nearby":
                    parsed_instruction.append(
                        f"{first_msg} " + relative_heading + ", which is " + next_heading + "."
                    )
                    parsed_instruction.append("Walk up to a crossing.")
                else:
                    parsed_instruction.append(
                        f"{first_msg} " + relative_heading + ", which is " + next_heading + "."
                    )
                    parsed_instruction.append("Walk up to a crossing where " + landmark + ".")
        str_instruction = ""
        for idx, instr in enumerate(parsed_instruction):
            str_instruction += f"{idx + 1}) {instr}\n"
        gt_rail_info = []
        landmark_list.insert(0, "Nothing of note here")
        absolute.append("stop()")
        relative.append("stop()")
        for idx, landmark in enumerate(landmark_list):
            for _ in range(self.points if idx else 0):
                gt_rail_info.append(
                    {
                        "gt_action": "forward()",
                        "observation": "Nothing of note around",
                        "intersection_observation": "",
                        "instruction": parsed_instruction[2 * idx - 1],
                    }
                )
            gt_rail_info.append(
                {
                    "gt_action": absolute[idx] if self.absolute_action else relative[idx],
                    "observation": landmark,
                    "intersection_observation": "There is an intersection" if (idx != 0) else "",
                    "instruction": parsed_instruction[min(2 * idx, len(parsed_instruction) - 1)],
                }
            )
        return str_instruction, gt_rail_info

    def look(self, step_cnt):
        intersection_obs = self.rail[step_cnt]["intersection_observation"]
        if self.rail[step_cnt]["gt_action"] == "stop()":
            intersection_obs = ""
        landmark_obs = self.rail[step_cnt]["observation"]
        obs_dict = {
            "oracle_observation": landmark_obs + "; " + intersection_obs,
        }
        return obs_dict["oracle_observation"]

    def get_observation_action_sequence(self, action_list, observation_list):
        previous_observations = ""
        for i, (action, observation) in enumerate(zip(action_list, observation_list, strict=False)):
            previous_observations += f"O_{i + 1}: {observation}\n"
            previous_observations += f"A_{i + 1}: {action}\n"
        if len(observation_list) > len(action_list):
            if not self.language_only:
                inter = (
                    "There is an intersection"
                    if "There is an intersection" in observation_list[-1]
                    else ""
                )
                previous_observations += f"O_{len(observation_list)}: Four pictures; {inter}\n"
                previous_observations += f"A_{len(observation_list)}: \n"
            else:
                previous_observations += f"O_{len(observation_list)}: {observation_list[-1]}\n"
                previous_observations += f"A_{len(observation_list)}: \n"
        return previous_observations
