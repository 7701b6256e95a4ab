"""Dialogues of SFT data, taken apart: what a wording is learned from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gym_cards.formula import evaluate, find_faults, foreign_characters, tokenize
from gym_cards.rules import FACES, RANKS, FaceRule
from gym_cards.verifier import REPLY_FIELDS, Finding
from gym_dialogue.messages import Message
from gym_dialogue.parse import read_fields

MIN_SHARE = 0.5
"""A template that explains a smaller share of its texts is not used."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Example:
    """A dialogue of the data. The hand is read from its last reply."""

    prompt: str
    cards: tuple[str, ...]
    numbers: tuple[int, ...]
    formula: str
    """The last reply's."""
    target: int | None
    """What the formula makes; None where that is no whole number."""
    replies: tuple[str, ...]
    sentences: tuple[str, ...]
    """The verifier's sentence on each reply but the last."""

    @property
    def faces(self) -> dict[str, int]:
        """Return what the faces of the hand count as."""
        pairs = zip(self.cards, self.numbers, strict=True)
        return {card: number for card, number in pairs if card in FACES}


@dataclass(frozen=True)
class RuledExample(Example):
    """An example whose prompt is understood: its target and its rule are known."""

    target: int
    rule: FaceRule


@dataclass(frozen=True)
class Comment:
    """The verifier's sentence on one wrong reply of a dialogue."""

    example: RuledExample
    sentence: str
    findings: tuple[Finding, ...]
    """What this project's verifier finds in the reply."""
    formula: str
    """The reply's."""
    used: int
    """Replies used so far, this one included."""

    @property
    def outcome(self) -> str:
        """Return the primary outcome of the reply."""
        return self.findings[0].outcome


def read_example(messages: Sequence[Message]) -> Example | None:
    """Return a dialogue as an example, or None where its last reply does not name a hand."""
    if messages[0].role == "system":
        messages = messages[1:]
    replies = tuple(m.text for m in messages[1::2])
    fields = read_fields(replies[-1], REPLY_FIELDS)
    cards = tuple(str(card).strip().upper() for card in fields["cards"] or ())
    numbers = tuple(n for n in fields["number"] or () if isinstance(n, int))
    formula = fields["formula"]
    if len(cards) < 2 or len(cards) != len(numbers) or not formula:
        return None
    for card, number in zip(cards, numbers, strict=True):
        if card not in RANKS or (card not in FACES and number != RANKS.index(card) + 1):
            return None
    sentences = tuple(m.text for m in messages[2::2])
    target = _whole_value(formula)
    return Example(messages[0].text, cards, numbers, formula, target, replies, sentences)


def _whole_value(formula: str) -> int | None:
    """Return the value of what stands before the `=`; None unless it is a whole number."""
    expression = formula.partition("=")[0]
    tokens = tokenize(expression)
    if foreign_characters(expression) or find_faults(tokens)[0]:
        return None
    value = evaluate(tokens)
    return int(value) if value is not None and value.denominator == 1 else None


def most_common(values: Iterable[_T]) -> _T:
    """Return the value met most often, the first of them in a tie."""
    return Counter(values).most_common(1)[0][0]


def percent(share: float) -> str:
    """Return a share as text, such as `33.3 %`."""
    return f"{100 * share:.1f} %"
