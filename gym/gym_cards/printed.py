"""Print solutions as the released code does, whose verifier compares formulas with them.

The released code tries every order of the numbers, every choice of operators, and these placements
of parentheses: none, one pair around two or more of the numbers but not all, or a pair around the
first two and another around the next two.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import permutations, product

from gym_cards.formula import evaluate, kind_of

_ONE_PAIR = re.compile(r"(?!\((?:no)*n\)$)(?:no)*\((?:no)+n\)(?:on)*")
_TWO_PAIRS = re.compile(r"\(non\)o\(non\)(?:on)*")
_CLOSE = 1e-6  # of the float that tells which formulas are worth an exact look


def opens_a_solution(tokens: Sequence[str], target: int) -> bool:
    """Return whether a formula with the right numbers, of which one `)` is missing, is the
    beginning of a printed solution.
    """
    whole = [*tokens, ")"]
    shape = "".join(map(kind_of, whole))
    if not (_ONE_PAIR.fullmatch(shape) or _TWO_PAIRS.fullmatch(shape)):
        return False
    return evaluate(whole) == target


def longest_opening(tokens: Sequence[str], numbers: Sequence[int], target: int) -> str:
    """Return the longest beginning of a formula, in whole tokens, that some printed solution has
    too, as text; empty where there is none.
    """
    printed = printed_solutions(tuple(sorted(numbers)), target)
    opening = ""
    for token in tokens:
        longer = opening + token
        place = bisect_left(printed, longer)
        if place == len(printed) or not printed[place].startswith(longer):
            break
        opening = longer
    return opening


@lru_cache(maxsize=2048)
def printed_solutions(numbers: tuple[int, ...], target: int) -> list[str]:
    """Return every solution in a printed form, sorted."""
    solutions = set()
    placements = list(_placements(len(numbers)))
    for order in set(permutations(numbers)):
        for symbols in product("+-*/", repeat=len(numbers) - 1):
            for pairs in placements:
                value = _value(order, symbols, pairs)
                if value is None or abs(value - target) > _CLOSE:
                    continue
                tokens = _tokens(order, symbols, pairs)
                if evaluate(tokens) == target:
                    solutions.add("".join(tokens))
    return sorted(solutions)


def _placements(size: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Yield pairs of parentheses, each as the first and the last of the numbers that it holds."""
    yield ()
    for first in range(size):
        for last in range(first + 1, size):
            if (first, last) != (0, size - 1):
                yield ((first, last),)
    if size >= 4:
        yield ((0, 1), (2, 3))


def _tokens(
    order: Sequence[int], symbols: Sequence[str], pairs: Sequence[tuple[int, int]]
) -> list[str]:
    tokens: list[str] = []
    for place, number in enumerate(order):
        tokens += "(" * sum(place == first for first, _ in pairs)
        tokens.append(str(number))
        tokens += ")" * sum(place == last for _, last in pairs)
        tokens += symbols[place : place + 1]
    return tokens


def _value(
    order: Sequence[int], symbols: Sequence[str], pairs: Sequence[tuple[int, int]]
) -> float | None:
    values: list[float] = list(order)
    between = list(symbols)
    for first, last in reversed(pairs):
        inside = _flat_value(values[first : last + 1], between[first:last])
        if inside is None:
            return None
        values[first : last + 1], between[first:last] = [inside], []
    return _flat_value(values, between)


def _flat_value(values: Sequence[float], symbols: Sequence[str]) -> float | None:
    """Return the value of a formula without parentheses; None where it divides by zero."""
    total, term = 0.0, float(values[0])
    for symbol, value in zip(symbols, values[1:], strict=True):
        if symbol == "*":
            term *= value
        elif symbol == "/":
            if abs(value) < _CLOSE:
                return None
            term /= value
        else:
            total += term
            term = value if symbol == "+" else -value
    return total + term
