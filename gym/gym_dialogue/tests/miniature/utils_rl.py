"""A miniature of a verifier that adds up penalties and joins its messages."""

import re
from collections import Counter

REWARD_FN = {
    "CORRECT_SOLUTION": 5,
    "PARTIAL_SOLUTION": 1,
    "NO_SOLUTION": -1,
    "INCORRECT_VISION": -1.5,
    "INCORRECT_NUMBER": -2,
    "ILLEGAL_FORMULA": -3,
}
REWARD_FN_VIRL = {"CORRECT_ACTION": 1, "INCORRECT_ACTION": -1, "INCORRECT_OBS": -1.5}


def aggregate_fn(message_list):
    return "; ".join(message_list) + "!"


class StepResult:
    def __init__(self):
        self.reward, self.message_list = 0, []

    def add(self, reward, message):
        self.reward += reward
        self.message_list.append(message)

    def __iter__(self):
        return iter((self.reward, aggregate_fn(self.message_list)))


def _kind(token):
    if token in "+-*/":
        return "operator"
    return {"(": "open_paren", ")": "close_paren"}.get(token, "number")


def step_rewards(numbers, formula, solutions, value, cards, gt_cards, language_only):
    """`value` is what the formula makes, None where it makes nothing."""
    if not language_only and sorted(gt_cards) != sorted(cards):
        return REWARD_FN["INCORRECT_VISION"], "those are other cards"
    stepper = StepResult()
    tokens = re.findall(r"\d+|[+\-*/()]", formula)
    if "".join(tokens) != formula:
        stepper.add(REWARD_FN["ILLEGAL_FORMULA"], "strange characters")
        return stepper
    prev_token_type = None
    paren_stack = []
    for token in tokens:
        token_type = _kind(token)
        if token_type == "number":
            if prev_token_type in [None, "operator", "open_paren"]:
                pass
            else:
                stepper.add(REWARD_FN["ILLEGAL_FORMULA"], "a number too many")
        elif token_type == "operator":
            if prev_token_type in ["number", "close_paren"]:
                pass
            else:
                stepper.add(REWARD_FN["ILLEGAL_FORMULA"], "a sign too many")
        elif token_type == "open_paren":
            if prev_token_type in [None, "operator", "open_paren"]:
                paren_stack.append(token)
            else:
                stepper.add(REWARD_FN["ILLEGAL_FORMULA"], "a '(' too many")
        elif token_type == "close_paren":
            if prev_token_type in ["number", "close_paren"]:
                if paren_stack:
                    paren_stack.pop()
                else:
                    stepper.add(REWARD_FN["ILLEGAL_FORMULA"], "a ')' without '('")
            else:
                stepper.add(REWARD_FN["ILLEGAL_FORMULA"], "a ')' too early")
        else:
            stepper.add(REWARD_FN["ILLEGAL_FORMULA"], "who knows")
        prev_token_type = token_type
    dealt, used = Counter(numbers), Counter(int(t) for t in tokens if t.isdigit())
    invalid_numbers = [n for n in used if n not in dealt]
    overused_numbers = [n for n in used if used[n] > dealt[n]]
    if invalid_numbers:
        stepper.add(REWARD_FN["INCORRECT_NUMBER"], f"nobody dealt {invalid_numbers}")
    elif overused_numbers:
        stepper.add(REWARD_FN["INCORRECT_NUMBER"], f"too much of {overused_numbers} in it")
    underused_numbers = [n for n in dealt if dealt[n] > used[n]]
    if underused_numbers:
        stepper.add(REWARD_FN["INCORRECT_NUMBER"], f"where is {underused_numbers}")
    if stepper.reward:
        return stepper
    if value == 24:
        stepper.add(REWARD_FN["CORRECT_SOLUTION"], "well done")
        return stepper
    if value is None and any(s.startswith(formula) for s in solutions):
        stepper.add(REWARD_FN["PARTIAL_SOLUTION"], "half done")
        return stepper
    register = ""
    for token in tokens:
        before = register
        register += token
        if not any(s.startswith(register) for s in solutions):
            if before == "":
                stepper.add(REWARD_FN["NO_SOLUTION"], "wrong from the start")
            else:
                stepper.add(REWARD_FN["NO_SOLUTION"], f"up to {before} it was fine")
            break
    return stepper


def set_str_action_space(env_config):
    if getattr(env_config, "absolute_action", True):
        action_space = """"forward()": go on
"turn_direction(x)": turn, x being one of ['north', 'northeast', 'east', 'southeast', 'south', \
'southwest', 'west', 'northwest']
"stop()": be there."""
    else:
        action_space = """"forward()": go on
"turn_direction(x)": turn, x being one of ['left', 'right', 'slightly left', 'slightly right']
"stop()": be there."""
    return action_space


def step_rewards_virl(output_action, output_obs, gt_action, gt_obs):
    stepper = StepResult()
    format_token = """
# Answer
{{
  "action": one of them,
}}"""
    if output_action == gt_action:
        stepper.add(REWARD_FN_VIRL["CORRECT_ACTION"], "well done")
        return stepper
    else:
        if ("intersection" in output_obs) and ("intersection" not in gt_obs):
            stepper.add(
                REWARD_FN_VIRL["INCORRECT_OBS"], "this is no crossing. Once more:" + format_token
            )
            return stepper
        elif ("intersection" not in output_obs) and ("intersection" in gt_obs):
            stepper.add(
                REWARD_FN_VIRL["INCORRECT_OBS"], "this is a crossing. Once more:" + format_token
            )
            return stepper
        stepper.add(REWARD_FN_VIRL["INCORRECT_ACTION"], "that is not the way." + format_token)
    return stepper
