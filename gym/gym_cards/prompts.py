"""The wording of GeneralPoints: the task's prompt, and a reply in the form that it asks for."""

from __future__ import annotations

import json
from collections.abc import Sequence

from gym_cards.rules import FaceRule

_COUNT_WORDS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}


def task_prompt(cards: Sequence[str] | None, rule: FaceRule, target: int, size: int) -> str:
    """The first user message; `cards` is None where an image shows them."""
    where = f"Cards: {json.dumps(list(cards))}" if cards is not None else "Cards: see the image."
    return (
        f"Make {target} out of {_COUNT_WORDS.get(size, size)} playing cards: write a formula that "
        "uses the value of every card exactly once, with + - * / and parentheses. An ace counts "
        f"as one, J as {rule.jack}, Q as {rule.queen}, K as {rule.king}.\n"
        f"{where}\n"
        'Reply with a JSON object and nothing else: {"cards": [the cards], "number": [the value '
        'of each card], "formula": "the formula, without spaces"}'
    )


def format_reply(cards: Sequence[str], numbers: Sequence[int], formula: str) -> str:
    """A reply in the form that the prompt asks for."""
    return json.dumps({"cards": list(cards), "number": list(numbers), "formula": formula})
