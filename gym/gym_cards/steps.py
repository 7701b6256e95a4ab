"""Worked solutions: a formula step by step, written and checked.

A step joins two of the numbers that are left, and says which are left then:

    10-8=2 left 6,9,2; 9*2=18 left 6,18; 18+6=24

The last step leaves one number, the target. Numbers are exact; one that is negative or a fraction
has parentheses: `(8/3)`. A solution may come after tries that ended elsewhere, each from all of the
numbers on, as in traces of a search (Stream of Search, arXiv 2404.03683):

    9+6=15 left 10,8,15; 8+15=23 left 10,23; 10+23=33 | 10-8=2 left 6,9,2; 9*2=18 left 6,18; 18+6=24
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import permutations

import numpy as np

from gym_cards.formula import APPLY, evaluate, find_faults, numbers_in, tokenize
from gym_cards.solver import Tree, print_tree, solve

_MAX_ENUMERATED = 4  # numbers; of more, one solution is taken apart
_LARGEST = 199  # of a number on the way, where solutions are enumerated
_NEXT_TRY = " | "
_NUMBER = r"(?:\d+|\(-?\d+(?:/\d+)?\))"
# No two neighbours match the same white space, so that a long stretch of it takes no long time.
_STEP = re.compile(
    rf"(?P<a>{_NUMBER})\s*(?P<symbol>[-+*/])\s*(?P<b>{_NUMBER})\s*=\s*(?P<c>{_NUMBER})"
    r"(?:\s*left\s(?P<left>[-\d/(),\s]*))?"
)


@dataclass(frozen=True)
class Step:
    """`a symbol b = c`, after which `left` are left, c among them."""

    a: Fraction
    symbol: str
    b: Fraction
    c: Fraction
    left: tuple[Fraction, ...]

    def __str__(self) -> str:
        a, b, c = map(_written, (self.a, self.b, self.c))
        left = f" left {','.join(map(_written, self.left))}" if len(self.left) > 1 else ""
        return f"{a}{self.symbol}{b}={c}{left}"


def _written(number: Fraction) -> str:
    return str(number) if number.denominator == 1 and number >= 0 else f"({number})"


def _number(text: str) -> Fraction:
    return Fraction(text.strip("()"))


def write_steps(steps: Sequence[Step]) -> str:
    """Return the steps of one try as a reply has them."""
    return "; ".join(map(str, steps))


def write_tries(tries: Sequence[Sequence[Step]]) -> str:
    """Return tries as a reply has them, the solution last."""
    return _NEXT_TRY.join(map(write_steps, tries))


def count_tries(text: str) -> int:
    """Return how many tries a reply has."""
    return text.count(_NEXT_TRY.strip()) + 1


def read_steps(text: str) -> list[Step] | None:
    """Return the steps of one try; None where a text is no list of steps."""
    steps = []
    for part in text.split(";"):
        match = _STEP.fullmatch(part.strip())
        if match is None:
            return None
        try:
            a, b, c = (_number(match[name]) for name in "abc")
            listed = re.split(r"[,\s]+", (match["left"] or match["c"]).strip())
            left = tuple(map(_number, listed))
        except (ValueError, ZeroDivisionError):
            return None
        steps.append(Step(a, match["symbol"], b, c, left))
    return steps


def are_right(text: str | None, formula: str | None, numbers: Sequence[int], target: int) -> bool:
    """Return whether the steps of every try are right, each legal (it joins two numbers that are
    left), computed right and with the right numbers left, whether the last try leads from the
    numbers to the target, and whether the formula makes the same of the same numbers.
    """
    left: list[Fraction] = []
    for one_try in (text or "").split(_NEXT_TRY.strip()):
        steps = read_steps(one_try)
        if not steps:
            return False
        left = [Fraction(number) for number in numbers]
        for step in steps:
            if not _is_right(step, left):
                return False
            left = list(step.left)
    tokens = tokenize((formula or "").partition("=")[0])
    of_the_hand = sorted(numbers_in(tokens)) == sorted(map(str, numbers))
    is_legal = of_the_hand and not any(find_faults(tokens))
    return left == [target] and is_legal and evaluate(tokens) == target


def _is_right(step: Step, left: list[Fraction]) -> bool:
    rest = list(left)
    for number in (step.a, step.b):
        if number not in rest:
            return False
        rest.remove(number)
    if step.symbol == "/" and step.b == 0:
        return False
    is_computed = APPLY[step.symbol](step.a, step.b) == step.c
    return is_computed and sorted([*rest, step.c]) == sorted(step.left)


def draw_steps(numbers: Sequence[int], target: int, rng: np.random.Generator) -> list[Step]:
    """Draw one of the step by step solutions of a hand that has one: of four numbers at most, any
    whose numbers on the way are whole, from 0 to 199; else the solver's, taken apart.
    """
    ways: tuple[tuple[Step, ...], ...] = ()
    if len(numbers) <= _MAX_ENUMERATED:
        ways = _ways(tuple(sorted(numbers)), target)
    if ways:
        return list(ways[rng.integers(len(ways))])
    return steps_of(solve(numbers, target) or "", numbers)


def draw_try(numbers: Sequence[int], target: int, rng: np.random.Generator) -> list[Step]:
    """Draw steps that end at another number than the target. They begin as a solution does, with as
    many of its steps as are drawn; from there on any two numbers are joined, in any way that leaves
    whole numbers from 0 to 199.
    """
    while True:
        solution = draw_steps(numbers, target, rng)
        steps = solution[: rng.integers(len(solution))]
        left = sorted(map(int, steps[-1].left)) if steps and _is_whole(steps) else sorted(numbers)
        steps = steps if _is_whole(steps) else []
        while len(left) > 1:
            options = sorted(set(_joined(left)))
            a, symbol, b, c, rest = options[rng.integers(len(options))]
            after = (*rest, c)
            step = Step(Fraction(a), symbol, Fraction(b), Fraction(c), tuple(map(Fraction, after)))
            steps.append(step)
            left = sorted(after)
        if left != [target]:
            return steps


def _is_whole(steps: Sequence[Step]) -> bool:
    """Return whether all numbers on the way are whole and none is negative."""
    return all(n.denominator == 1 and n >= 0 for step in steps for n in step.left)


@lru_cache(maxsize=16384)
def _ways(numbers: tuple[int, ...], target: int) -> tuple[tuple[Step, ...], ...]:
    """Return every sequence of steps from sorted numbers to the target."""
    if len(numbers) == 1:
        return ((),) if numbers[0] == target else ()
    ways = []
    for a, symbol, b, c, rest in sorted(set(_joined(numbers))):
        after = tuple(sorted((*rest, c)))
        step = Step(Fraction(a), symbol, Fraction(b), Fraction(c), tuple(map(Fraction, (*rest, c))))
        ways += [(step, *further) for further in _ways(after, target)]
    return tuple(ways)


def _joined(numbers: Sequence[int]) -> Iterator[tuple[int, str, int, int, tuple[int, ...]]]:
    """Yield all ways to join two of the numbers: (a, symbol, b, result, the numbers besides)."""
    for i, j in permutations(range(len(numbers)), 2):
        a, b = numbers[i], numbers[j]
        rest = tuple(numbers[k] for k in range(len(numbers)) if k not in (i, j))
        results = {"-": a - b} if i > j else {"+": a + b, "*": a * b, "-": a - b}
        if b and a % b == 0:
            results["/"] = a // b
        for symbol, c in results.items():
            if 0 <= c <= _LARGEST:
                yield a, symbol, b, c, rest


def steps_of(formula: str, numbers: Sequence[int]) -> list[Step]:
    """Return the steps that carry a formula out, innermost first, right or not: as far as it can be
    carried out, with the numbers of a hand that are left then.
    """
    left = [Fraction(number) for number in numbers]
    steps: list[Step] = []

    def on_join(a: Fraction, symbol: str, b: Fraction, c: Fraction) -> None:
        for number in (a, b):
            if number in left:
                left.remove(number)
        left.append(c)
        steps.append(Step(a, symbol, b, c, tuple(left)))

    tokens = tokenize(formula)
    if not find_faults(tokens)[0]:
        evaluate(tokens, on_join)
    return steps


def formula_of(steps: Sequence[Step]) -> str:
    """Return the formula that steps compute, with the fewest parentheses."""
    made: list[tuple[Fraction, Tree]] = []  # what steps have made and none has used

    def take(number: Fraction) -> Tree:
        for i, (value, tree) in enumerate(made):
            if value == number:
                del made[i]
                return tree
        return int(number)  # of the hand

    for step in steps:
        made.append((step.c, (step.symbol, take(step.a), take(step.b))))
    return print_tree(made[-1][1])
