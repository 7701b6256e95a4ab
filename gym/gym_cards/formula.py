"""Take a formula's text apart and compute its exact value. Nothing is ever evaluated as code."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

OUT_OF_PLACE = {"n": "number_order", "o": "operator_order", "(": "open_order", ")": "close_order"}
"""Kind of token -> name of the fault where it stands in a wrong place."""
UNMATCHED = "unmatched"
"""The fault of a `)` that closes nothing."""

_TOKEN = re.compile(r"[0-9]+|[-+*/()]")
_FOREIGN = re.compile(r"[^-+*/()0-9]")
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
APPLY = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def foreign_characters(formula: str) -> list[str]:
    """Return the characters that no formula may have, each once, in order."""
    return list(dict.fromkeys(_FOREIGN.findall(formula)))


def tokenize(formula: str) -> list[str]:
    """Return numbers, operators and parentheses in order; other characters are passed over."""
    return _TOKEN.findall(formula)


def find_faults(tokens: Sequence[str]) -> tuple[list[str], int]:
    """Return (the faults in their order, how many parentheses are left open).

    The faults are those that the released verifier penalises: a number after a number or `)`; an
    operator that does not follow one of these; a `(` that does, which then opens nothing; a `)`
    that does not, or that has none to close. To end in an operator is none.
    """
    faults: list[str] = []
    depth, follows_operand = 0, False
    for token in tokens:
        kind = kind_of(token)
        is_out_of_place = follows_operand if kind in "n(" else not follows_operand
        if is_out_of_place:
            faults.append(OUT_OF_PLACE[kind])
        elif kind == "(":
            depth += 1
        elif kind == ")" and depth == 0:
            faults.append(UNMATCHED)
        elif kind == ")":
            depth -= 1
        follows_operand = kind in "n)"
    return faults, depth


def kind_of(token: str) -> str:
    """Return a token's kind: "n" for a number, "o" for an operator, or the parenthesis itself."""
    return "n" if token[0].isdigit() else "o" if token in _PRECEDENCE else token


def numbers_in(tokens: Sequence[str]) -> list[str]:
    """Return the numbers of a formula in order, without leading zeros. They stay text: a model may
    write one of a million digits.
    """
    return [token.lstrip("0") or "0" for token in tokens if token[0].isdigit()]


def evaluate(
    tokens: Sequence[str],
    on_join: Callable[[Fraction, str, Fraction, Fraction], None] | None = None,
) -> Fraction | None:
    """Return the exact value of a formula without faults; None where it has none: it ends in an
    operator, leaves a parenthesis open, divides by zero, or writes a number with leading zeros,
    which Python refuses too. Dijkstra's shunting-yard: two stacks, no recursion. `on_join` is told
    of each operation as it is carried out: left, symbol, right, result.
    """
    values: list[Fraction] = []
    operators: list[str] = []

    def reduce() -> bool:
        symbol = operators.pop()
        if symbol == "(" or len(values) < 2:
            return False
        right, left = values.pop(), values.pop()
        if symbol == "/" and right == 0:
            return False
        values.append(APPLY[symbol](left, right))
        if on_join is not None:
            on_join(left, symbol, right, values[-1])
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
        elif token[0] == "0" and token.strip("0"):
            return None
        else:
            values.append(Fraction(int(token)))
    while operators:
        if not reduce():
            return None
    return values[0] if values else None
