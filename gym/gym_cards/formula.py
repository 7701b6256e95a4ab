"""A formula's text -> tokens -> its exact value. Nothing is ever evaluated as code."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from fractions import Fraction

MAX_CHARS = 100
MAX_DEPTH = 16
MAX_DIGITS = 6

_TOKEN = re.compile(r"[0-9]+|[-+*/()]")
_LEGAL = re.compile(r"[-+*/()0-9]*")
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_APPLY = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def tokenize(formula: str) -> list[str] | None:
    """Numbers, operators and parentheses in order; None where a limit or the alphabet is broken.

    Limits: 100 characters, 6 digits a number, no leading zero, parentheses 16 deep.
    """
    if len(formula) > MAX_CHARS or not _LEGAL.fullmatch(formula):
        return None
    tokens = _TOKEN.findall(formula)
    depth = 0
    for token in tokens:
        if token == "(":
            depth += 1
            if depth > MAX_DEPTH:
                return None
        elif token == ")":
            depth -= 1
        elif token[0].isdigit() and (len(token) > MAX_DIGITS or (token[0] == "0" != token)):
            return None
    return tokens


def count_faults(tokens: Sequence[str]) -> tuple[int, int]:
    """(tokens out of order or unmatched `)`, parentheses left open).

    A missing last operand counts as one token out of order. Reading goes on after a fault, so
    that each is counted once.
    """
    faults = depth = 0
    wants_operand = True
    for token in tokens:
        if token == "(":
            faults += not wants_operand
            wants_operand = True
            depth += 1
        elif token == ")":
            if wants_operand or depth == 0:
                faults += 1
            if depth > 0:
                depth -= 1
            wants_operand = False
        elif token in _PRECEDENCE:
            faults += wants_operand
            wants_operand = True
        else:
            faults += not wants_operand
            wants_operand = False
    return faults + wants_operand, depth


def numbers_in(tokens: Sequence[str]) -> list[int]:
    """The numbers of a formula, in order."""
    return [int(token) for token in tokens if token[0].isdigit()]


def evaluate(tokens: Sequence[str]) -> Fraction | None:
    """The exact value of a well-formed formula (no faults, nothing left open); None if it divides
    by zero. Dijkstra's shunting-yard: two stacks, no recursion.
    """
    values: list[Fraction] = []
    operators: list[str] = []

    def reduce() -> bool:
        right, left, symbol = values.pop(), values.pop(), operators.pop()
        if symbol == "/" and right == 0:
            return False
        values.append(_APPLY[symbol](left, right))
        return True

    for token in tokens:
        if token == "(":
            operators.append(token)
        elif token == ")":
            while operators[-1] != "(":
                if not reduce():
                    return None
            operators.pop()
        elif token in _PRECEDENCE:
            while operators and _PRECEDENCE.get(operators[-1], 0) >= _PRECEDENCE[token]:
                if not reduce():
                    return None
            operators.append(token)
        else:
            values.append(Fraction(int(token)))
    while operators:
        if not reduce():
            return None
    return values[0]
