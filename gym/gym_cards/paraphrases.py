"""GeneralPoints' prompt in several wordings that mean the same, so that a policy can be trained,
or tested, on more than one fixed prompt: training on diverse prompts was found to break the habit
of answering a prompt's wording rather than the rule that it states (arXiv 2510.00237).

The form of a reply, and the verifier's sentences, are the same in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from gym_cards.prompts import OWN, Wording

_KEYS = '{"cards": [...], "number": [...], "formula": "..."}'
_CARDS_ONLY = '{"cards": [...]}'


def _worded(
    rule: str,
    task: str,
    shown: str,
    look: str,
    formula: str,
    form: str,
    rule_phrase: Mapping[str, str] | None = None,
) -> Wording:
    """Make a wording from its parts, each a line: the rule of the cards, the task, the hand as
    text, the hand as an image, what a formula is, and the form of a reply, with <<form>> for the
    object. Together they say everything that costs reward.
    """
    phrases = {} if rule_phrase is None else {"faces": rule_phrase}
    recognition = f"{look}\n{form}".replace("<<form>>", _CARDS_ONLY)
    form = form.replace("<<form>>", _KEYS)
    return Wording(
        prompt="\n".join((task, rule, shown, formula, form)),
        image_prompt="\n".join((task, rule, look, formula, form)),
        recognition_prompt=recognition,
        phrases=phrases,
    )


_EACH = {
    "same": "J, Q and K are worth <<J>> each",
    "different": "J is worth <<J>>, Q is worth <<Q>> and K is worth <<K>>",
}
_COURT = {
    "same": "every picture card (J, Q, K) stands for <<J>>",
    "different": "the picture cards stand for <<J>> (J), <<Q>> (Q) and <<K>> (K)",
}

DIVERSE: tuple[Wording, ...] = (
    OWN,
    _worded(
        task="You are playing a game of arithmetic with <<count>> cards. The goal is <<target>>.",
        rule="In this game <<faces>>; an ace is worth 1.",
        shown="You hold <<cards>>.",
        look="The image shows the cards that you hold.",
        formula="Use the value of each card exactly once, with + - * / and parentheses, and put no "
        "spaces in the formula.",
        form="Answer with this JSON object, filled in, and no other text: <<form>>",
        rule_phrase=_EACH,
    ),
    _worded(
        task="Combine the values of these <<count>> cards, each of them once, into exactly "
        "<<target>>. You may add, subtract, multiply, divide, and set parentheses.",
        rule="Values: A=1, J=<<J>>, Q=<<Q>>, K=<<K>>, others as printed.",
        shown="Hand: <<cards>>",
        look="Hand: see the image.",
        formula="The formula is a string without spaces.",
        form="Output format: <<form>>",
    ),
    _worded(
        task="Find an expression that equals <<target>>. It must contain the number of every card "
        "one time, and nothing else but + - * / ( ).",
        rule="Note that <<faces>>. The ace is a one, and number cards count as what they say.",
        shown="The <<count>> cards on the table: <<cards>>.",
        look="The <<count>> cards on the table are in the picture.",
        formula="Leave no spaces between the characters of the formula.",
        form="Write a JSON object of this form: <<form>>",
        rule_phrase=_COURT,
    ),
    _worded(
        task="Puzzle: reach <<target>>.",
        rule="A jack counts <<J>>, a queen counts <<Q>>, a king counts <<K>>, an ace counts one.",
        shown="With: <<cards>>. None may be left over, and none may be used twice.",
        look="With the <<count>> cards in the image. None may be left over or used twice.",
        formula="Allowed in the formula: numbers, + - * / and parentheses; spaces are not.",
        form="Solution, as JSON like <<form>>:",
    ),
    _worded(
        task="Can you get <<target>> out of <<count>> playing cards by addition, subtraction, "
        "multiplication and division? Use each card's value once.",
        rule="Remember what cards count as here: <<faces>>, and A is worth 1.",
        shown="My cards are <<cards>>.",
        look="My cards are the ones in the picture.",
        formula="I want the formula without spaces; parentheses are fine.",
        form="Please reply in JSON only, with these keys: <<form>>",
        rule_phrase=_EACH,
    ),
    _worded(
        task="TASK arithmetic, TARGET <<target>>, CARDS <<count>>",
        rule="RULE J:<<J>> Q:<<Q>> K:<<K>> A:1",
        shown="INPUT <<cards>>",
        look="INPUT image",
        formula="FORMULA each card once, + - * / and parentheses, no spaces",
        form="OUTPUT <<form>>",
    ),
    _worded(
        task="Here is a riddle about cards. Their numbers, put together with + - * / and "
        "parentheses so that each is used once, make <<target>>.",
        rule="As for the numbers, <<faces>>, while an ace is 1.",
        shown="The riddle's cards, <<count>> of them, are <<cards>>.",
        look="The riddle's cards, <<count>> of them, are shown in the image.",
        formula="Give the cards, their numbers and the formula, written without any spaces.",
        form="The form of an answer: <<form>>",
        rule_phrase=_COURT,
    ),
)
"""The project's own wording and seven others."""
